"""Faults: a TCP proxy before each of the app's dependencies, and one file a fault."""
