"""Corral: a self-hosted server for managed agents in Linux containers."""

__version__ = "0.1.0"
