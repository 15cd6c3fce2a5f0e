"""Expiries: one timer for all requests that have the service's default deadline."""

import asyncio
from typing import Protocol

_EARLY = 0.002  # uvloop counts in whole milliseconds, so its timers may fire a little early


class Expiring(Protocol):
    """A request that waits for its deadline."""

    def left(self) -> float:
        """Return the seconds until the deadline."""
        ...

    def expire(self) -> None:
        """Do what is to be done when the deadline has passed."""
        ...


class Expiries:
    """Requests in the order in which they expire, which is the order in which they came.

    A timer of its own would cost each request 2 to 4 µs; here it is a dictionary's item. The
    timer is set for the first one and stays set when that ends: at most one, for `default`
    seconds, is left behind.

    Args:
        loop: The loop whose timer is used.
    """

    __slots__ = ("_pending", "_timer", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._pending: dict[Expiring, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, request: Expiring) -> None:
        """Let `request` expire; its deadline must not be before that of any added earlier."""
        self._pending[request] = None
        if self._timer is None:
            self._arm(request)

    def discard(self, request: Expiring) -> None:
        """Forget `request`; unknown: does nothing."""
        self._pending.pop(request, None)

    def _arm(self, request: Expiring) -> None:
        self._timer = self.loop.call_at(self.loop.time() + request.left(), self._fire)

    def _fire(self) -> None:
        self._timer = None
        for request in tuple(self._pending):
            if request.left() > _EARLY:
                self._arm(request)
                return
            del self._pending[request]
            request.expire()
