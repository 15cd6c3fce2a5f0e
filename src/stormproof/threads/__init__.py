"""Threads: capacity for blocking work, where a place is held until the thread really ends."""

from ._threads import Threads as Threads
from ._threads import ThreadStatistics as ThreadStatistics

__all__ = ("ThreadStatistics", "Threads")
