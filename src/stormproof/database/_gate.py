"""The gate: lets a number of callers in at once; the others wait, first come first served."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from stormproof._core.deadline import bounded, remaining
from stormproof.errors import DeadlineExceeded, PoolTimeout


class Gate:
    """Lets `capacity` callers in at once; the others wait in the order they came.

    Args:
        capacity: How many may be inside.
        max_wait: Longest wait in seconds; the deadline in force shortens it.
        what: What is waited for, in words, for the message.
        advice: The way out, in words, for the message.
        on_timeout: Called with the seconds waited when a wait ended without a place.
    """

    def __init__(
        self,
        capacity: int,
        *,
        max_wait: float,
        what: str,
        advice: str,
        on_timeout: Callable[[float], None],
    ) -> None:
        self.capacity = capacity
        self.max_wait = max_wait
        self.in_use = 0
        self.released = 0
        self.timeouts = 0
        self.emptied = asyncio.Event()
        self.emptied.set()
        self._what = what
        self._advice = advice
        self._on_timeout = on_timeout
        # Ordered so that both the next waiter and one that gives up are found in O(1).
        self._waiters: OrderedDict[asyncio.Future[bool], None] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many callers wait now."""
        return len(self._waiters)

    async def acquire(self) -> None:
        """Wait for a place, at most `max_wait` seconds and never past the deadline.

        Cancelled while waiting: no place is held.

        Raises:
            PoolTimeout: No place came free within `max_wait`.
            DeadlineExceeded: The deadline passed first.
        """
        if self.in_use < self.capacity:
            self.in_use += 1
            self.emptied.clear()
            return
        wait = bounded(self.max_wait)
        began_at = asyncio.get_running_loop().time()
        if wait > 0 and await self._handed_over(wait):
            return
        self._refuse(wait, asyncio.get_running_loop().time() - began_at)

    def release(self) -> None:
        """Hand the place to the caller who has waited longest, or leave it free."""
        self.released += 1
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():  # done: cancelled in this very tick
                waiter.set_result(True)
                return
        self.in_use -= 1
        if self.in_use == 0:
            self.emptied.set()

    async def _handed_over(self, wait: float) -> bool:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiters[waiter] = None
        timer = loop.call_later(wait, self._expire, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if self._waiters.pop(waiter, self) is self and _was_handed(waiter):
                self.release()  # the place arrived in the same tick as the cancellation
            raise
        finally:
            timer.cancel()

    def _expire(self, waiter: asyncio.Future[bool]) -> None:
        if self._waiters.pop(waiter, self) is None and not waiter.done():
            waiter.set_result(False)

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


def _was_handed(waiter: asyncio.Future[bool]) -> bool:
    return waiter.done() and not waiter.cancelled() and waiter.result()
