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


Seen = tuple[Use, object]
"""The use at a sample, and the instruction that was being executed."""


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


def blocked(last: Use, samples: Sequence[Seen], now: Use, *, is_one_call: bool) -> float:
    """Return the seconds from one heartbeat to the next that a callback is to blame for.

    The wait for a processor is not: the machine is busy. Nor is a wait within a callback that
    gets on: it wants the interpreter, which other threads have. Between two samples at the same
    instruction the thread sleeps in a call, and there all counts, the wait for a processor too:
    each sample wakes the thread, which would have slept on.

    Args:
        last: At the heartbeat before.
        samples: What was seen since, with the instruction; empty where the samples did not
            interrupt the thread.
        now: At the heartbeat that was late.
        is_one_call: Whether one call of C code has lasted all the time.
    """
    if is_one_call:
        return _stretch(last, now, is_same=True)
    if not samples:
        return _worked_and_slept(last, now)
    seconds = _worked_and_slept(last, samples[0][0]) + _worked_and_slept(samples[-1][0], now)
    for (before, place), (after, next_place) in pairwise(samples):
        seconds += _stretch(before, after, is_same=place == next_place)
    return seconds


def _stretch(before: Use, after: Use, *, is_same: bool) -> float:
    worked = after.worked - before.worked
    if not is_same:
        return worked
    wall, unqueued = after.at - before.at, _worked_and_slept(before, after)
    return wall if unqueued - worked > worked else unqueued


def _worked_and_slept(before: Use, after: Use) -> float:
    return after.at - before.at - (after.queued - before.queued)
