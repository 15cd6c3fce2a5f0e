"""Clocks: where a room reads the time, so that a test can turn it by hand."""

import time
from typing import Protocol


class Clock(Protocol):
    """A source of monotonic time."""

    def now(self) -> float:
        """Return the time in seconds; it never goes back, and its zero means nothing."""
        ...


class MonotonicClock:
    """The real clock: `time.monotonic`, which is also what asyncio and uvloop loops count by."""

    __slots__ = ()

    # The function itself, and no method around it: each request asks twice.
    now = staticmethod(time.monotonic)


MONOTONIC = MonotonicClock()
