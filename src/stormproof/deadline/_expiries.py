"""Expiries: one timer for all requests that have the service's default deadline."""

import asyncio
from contextvars import Context
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

    To add a request, put it into `pending` and `arm` a `timer` that is not set; its deadline must
    not be before that of any added earlier. To forget it, take it out.

    Args:
        loop: The loop whose timer is used.
    """

    __slots__ = ("loop", "pending", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        # Read and changed in place, and not by methods: each request does so twice.
        self.pending: dict[Expiring, None] = {}
        self.timer: asyncio.TimerHandle | None = None

    def arm(self, request: Expiring) -> None:
        """Set the timer for `request`, the first of those that are pending."""
        # A context of its own: that of the request which happens to set it would be kept.
        at = self.loop.time() + request.left()
        self.timer = self.loop.call_at(at, self._fire, context=Context())

    def _fire(self) -> None:
        self.timer = None
        for request in tuple(self.pending):
            if request.left() > _EARLY:
                self.arm(request)
                return
            del self.pending[request]
            request.expire()
