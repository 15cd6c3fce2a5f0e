"""The backstop: one timer that ends the waits whose time is over."""

import asyncio
from collections import deque
from collections.abc import Callable

from ._queue import Waiter

_TOMBSTONES_KEPT = 64


class Backstop:
    """Ends waits of one length, which end in the order they began: one timer for all of them.

    A timer for each waiter costs 0.5 kB and, on uvloop, most of a cancellation (31 µs of it
    among ten thousand).

    Args:
        expire: Called with each waiter whose time is over and that is not done.
    """

    __slots__ = ("_expire", "_length", "_timer", "_waiters")

    def __init__(self, expire: Callable[[Waiter], None]) -> None:
        self._expire = expire
        self._waiters: deque[Waiter] = deque()
        self._length = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, waiter: Waiter, length: float, waiting: int) -> None:
        """End the wait of `waiter` in `length` seconds; `waiting` callers wait in all."""
        self._length = length
        self._waiters.append(waiter)
        if self._timer is None:
            self._arm(waiter)
        elif len(self._waiters) > 2 * waiting + _TOMBSTONES_KEPT:
            self._waiters = deque(waiter for waiter in self._waiters if not waiter.done())

    def rest(self) -> None:
        """Nobody waits any more: forget all, and the timer with it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._waiters.clear()

    def _arm(self, first: Waiter) -> None:
        loop = first.get_loop()
        self._timer = loop.call_at(first.queued_at + self._length, self._ring)

    def _ring(self) -> None:
        self._timer = None
        waiters = self._waiters
        while waiters:
            first = waiters[0]
            if not first.done():
                # uvloop counts in whole milliseconds, so its timers may fire a little early.
                if first.get_loop().time() < first.queued_at + self._length - 0.001:
                    self._arm(first)
                    return
                self._expire(first)
            waiters.popleft()  # type: ignore[unused-awaitable]  # done: nothing to wait for
