"""The command: parse, call, print; exit codes 0 good, 2 wrong use, 3 could not run."""

from ._main import main as main

__all__ = ("main",)
