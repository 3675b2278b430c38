"""Secrets that projects keep here: sealed in the store, opened for what goes out. Imports `egress` and floors below."""
