"""The queue of a limiter: whoever came first is handed the next slot."""

import asyncio
from collections import deque
from typing import Literal, TypeAlias

Outcome: TypeAlias = Literal["granted", "late", "closed"]
Waiter: TypeAlias = asyncio.Future[Outcome]

_TOMBSTONES_KEPT = 64


class Queue:
    """Waiters in the order they came; one that gave up stays as a tombstone, so that costs O(1)."""

    __slots__ = ("_waiters", "waiting")

    def __init__(self) -> None:
        self._waiters: deque[Waiter] = deque()
        self.waiting = 0

    def __len__(self) -> int:
        return len(self._waiters)

    def put(self, waiter: Waiter) -> None:
        """Let `waiter` wait behind all others."""
        self._waiters.append(waiter)
        self.waiting += 1

    def take(self) -> Waiter | None:
        """Remove and return who has waited longest, or None when nobody waits."""
        waiters = self._waiters
        while waiters:
            waiter = waiters.popleft()
            if not waiter.done():
                self.waiting -= 1
                return waiter
        return None

    def gave_up(self) -> None:
        """One waiter that is done was not taken: it is a tombstone from now on."""
        self.waiting -= 1
        # They are dropped when they outnumber the living: O(1) per waiter over time.
        if len(self._waiters) > 2 * self.waiting + _TOMBSTONES_KEPT:
            self._waiters = deque(waiter for waiter in self._waiters if not waiter.done())
