"""Usage: how much of a thread's time was work, how much sleep, how much a wait for a processor."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Use:
    """The monotonic time, and the thread's seconds on and in the queue for a processor so far."""

    at: float
    worked: float
    queued: float


class Usage:
    """Reads the use of the thread that made it; `queued` stays 0 where the system does not tell."""

    def __init__(self) -> None:
        path = f"/proc/self/task/{threading.get_native_id()}/schedstat"
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = -1

    def now(self) -> Use:
        """Return the use of this moment; for the thread that made this alone."""
        queued = 0.0
        if self._file >= 0:
            try:
                queued = int(os.pread(self._file, 100, 0).split()[1]) / 1e9
            except (OSError, ValueError, IndexError):
                self._file = -1
        return Use(time.monotonic(), time.thread_time(), queued)


def blocked(uses: Sequence[Use]) -> float:
    """Return the seconds from the first to the last use, without the wait for a processor.

    A sample by a signal wakes a thread that sleeps, which then waits for a processor although it
    had nothing to do. So the wait within a time that was mostly sleep counts: it would have been
    sleep. The first and the last stretch may be the loop's own sleep; their wait is taken off.
    """
    total = uses[-1].at - uses[0].at - (uses[-1].queued - uses[0].queued)
    for before, after in pairwise(uses[1:-1]):
        queued = after.queued - before.queued
        worked = after.worked - before.worked
        slept = after.at - before.at - queued - worked
        total += queued if slept > worked else 0.0
    return total
