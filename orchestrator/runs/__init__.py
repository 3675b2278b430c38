"""Runs: the execution of interactions. A run is a function of its log (design 2): it can be rebuilt at any point."""
