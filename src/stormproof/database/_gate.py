"""The gate: lets a number of callers in at once; the others wait, first come first served."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

from stormproof._core.deadline import bounded, remaining
from stormproof.errors import DeadlineExceeded, PoolTimeout

Line: TypeAlias = "OrderedDict[asyncio.Future[bool], int]"


class Gate:
    """Lets `capacity` callers in at once; the others wait in the order they came.

    Args:
        capacity: How many may be inside.
        max_wait: Longest wait in seconds; the deadline in force shortens it.
        what: What is waited for, in words, for the message.
        advice: The way out, in words, for the message.
        on_timeout: Called with the seconds waited when a wait ended without a place.
        reserve: Places that only urgent callers may take.
    """

    def __init__(
        self,
        capacity: int,
        *,
        max_wait: float,
        what: str,
        advice: str,
        on_timeout: Callable[[float], None],
        reserve: int = 0,
    ) -> None:
        self.capacity = capacity
        self.max_wait = max_wait
        self.in_use = 0
        self.released = 0
        self.timeouts = 0
        self._emptied: asyncio.Event | None = None
        self._what = what
        self._advice = advice
        self._on_timeout = on_timeout
        self.reserve = reserve
        self._arrivals = 0
        # Ordered so that both the next waiter and one that gives up are found in O(1); the value
        # is the number of its arrival.
        self._urgent: Line = OrderedDict()
        self._others: Line = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many callers wait now."""
        return len(self._urgent) + len(self._others)

    def try_acquire(self, *, is_urgent: bool = True) -> bool:
        """Take a place if one is free for such a caller, without waiting."""
        if self.in_use >= (self.capacity if is_urgent else self.capacity - self.reserve):
            return False
        self.in_use += 1
        return True

    async def emptied(self) -> None:
        """Wait until nobody is inside."""
        while self.in_use > 0:
            if self._emptied is None or self._emptied.is_set():
                self._emptied = asyncio.Event()
            await self._emptied.wait()

    async def acquire(self, *, is_urgent: bool = True) -> None:
        """Wait for a place, at most `max_wait` seconds and never past the deadline.

        Cancelled while waiting: no place is held.

        Args:
            is_urgent: Whether the reserve is for this caller, too.

        Raises:
            PoolTimeout: No place came free within `max_wait`.
            DeadlineExceeded: The deadline passed first.
        """
        if self.try_acquire(is_urgent=is_urgent):
            return
        wait = bounded(self.max_wait)
        began_at = asyncio.get_running_loop().time()
        if wait > 0 and await self._handed_over(wait, self._urgent if is_urgent else self._others):
            return
        self._refuse(wait, asyncio.get_running_loop().time() - began_at)

    def release(self) -> None:
        """Hand the place to the caller who has waited longest, or leave it free."""
        self.released += 1
        self.in_use -= 1
        while (self._urgent or self._others) and (line := self._next_line()):
            waiter, _ = line.popitem(last=False)
            if not waiter.done():  # done: cancelled in this very tick
                self.in_use += 1
                waiter.set_result(True)
        if self.in_use == 0 and self._emptied is not None:
            self._emptied.set()

    def _next_line(self) -> "Line | None":
        """Return the line whose first waiter may come in now: of two, whose first came earlier."""
        if self.in_use >= self.capacity:
            return None
        if not self._others or self.in_use >= self.capacity - self.reserve:
            return self._urgent
        if not self._urgent:
            return self._others
        return min(self._urgent, self._others, key=lambda line: next(iter(line.values())))

    async def _handed_over(self, wait: float, line: "Line") -> bool:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._arrivals += 1
        line[waiter] = self._arrivals
        timer = loop.call_later(wait, _expire, waiter, line)
        try:
            return await waiter
        except asyncio.CancelledError:
            if line.pop(waiter, None) is None and _was_handed(waiter):
                self.release()  # the place arrived in the same tick as the cancellation
            raise
        finally:
            timer.cancel()

    def count_timeout(self, waited: float) -> None:
        """Count a wait of `waited` seconds that ended without a place."""
        self.timeouts += 1
        self._on_timeout(waited)

    def _refuse(self, wait: float, waited: float) -> None:
        self.count_timeout(waited)
        left = remaining()
        facts = f"{self._what}: {self.in_use} of {self.capacity} in use, waited {waited:.2f} s"
        if wait < self.max_wait and left is not None and left <= wait:
            raise DeadlineExceeded(f"the deadline passed while waiting for {facts}")
        raise PoolTimeout(
            f"no place came free for {facts}, {self.waiting} more waiting; {self._advice}",
            retry_after=1,
        )


def _expire(waiter: asyncio.Future[bool], line: Line) -> None:
    if line.pop(waiter, None) is not None and not waiter.done():
        waiter.set_result(False)


def _was_handed(waiter: asyncio.Future[bool]) -> bool:
    return waiter.done() and not waiter.cancelled() and waiter.result()
