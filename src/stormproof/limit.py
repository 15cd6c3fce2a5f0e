"""Limits: how many at once, how long to wait for a place, and what to shed."""

import asyncio
import math
from collections import deque
from dataclasses import dataclass
from types import TracebackType

from stormproof._core.deadline import remaining
from stormproof._core.events import Events, SlotRefused
from stormproof.errors import DeadlineExceeded, InvalidSetting, LimitExceeded

_QUEUE_PER_SLOT = 10
_TOMBSTONES_KEPT = 64


@dataclass(frozen=True, slots=True)
class LimiterStatistics:
    """What a limiter is doing and has done; who has come is in exactly one of the last four.

    Attributes:
        capacity: Slots there are.
        in_use: Slots held now; above `capacity` only after `resize` made that smaller.
        waiting: Callers in the queue now.
        admitted: Callers that got a slot.
        shed: Callers turned away: queue full, wait over, or deadline passed.
        cancelled: Callers cancelled while they waited.
    """

    capacity: int
    in_use: int
    waiting: int
    admitted: int
    shed: int
    cancelled: int


class Slot:
    """One place in a limiter, held for the length of an `async with` block."""

    __slots__ = ("_limiter",)

    def __init__(self, limiter: "Limiter") -> None:
        self._limiter = limiter

    async def __aenter__(self) -> None:
        limiter = self._limiter
        left = remaining()
        if left is not None and left <= 0.0:
            raise limiter._too_late(-left)
        if limiter._in_use < limiter._capacity:
            limiter._in_use += 1
        else:
            await limiter._wait(left)
        limiter._admitted += 1

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        limiter = self._limiter
        limiter._in_use -= 1
        if limiter._queue:
            limiter._hand_on()


class Limiter:
    """Lets `capacity` callers in at once, a bounded number wait a bounded time, sheds the rest.

    A slot that comes free goes to the caller that has waited longest; a newcomer never
    overtakes. It may be made before any event loop runs (at module level) and serves one
    loop at a time. Not thread-safe: use it from the loop's thread only.

    Args:
        capacity: Slots; at least 1.
        max_queue: Callers that may wait; the next one is shed on arrival. 0: nobody waits.
            Default: ten times the capacity, which takes a burst in and still sheds a steady
            overload on arrival as soon as a slot turns over in under `max_wait` / 10.
        max_wait: Seconds a caller waits at most; finite, 0 or more. A nearer deadline wins.
        name: What messages and metrics call this limit.
        events: Where `SlotRefused` goes; also an attribute that may be set later.

    Raises:
        InvalidSetting: When a number is of the wrong type or out of its range.
    """

    __slots__ = (
        "_admitted",
        "_cancelled",
        "_capacity",
        "_in_use",
        "_max_queue",
        "_queue",
        "_shed",
        "_slot",
        "_waiting",
        "events",
        "max_wait",
        "name",
    )

    def __init__(
        self,
        capacity: int,
        *,
        max_queue: int | None = None,
        max_wait: float = 0.5,
        name: str = "limit",
        events: Events | None = None,
    ) -> None:
        self._capacity = _checked_count("capacity", capacity, at_least=1)
        if max_queue is not None:
            _checked_count("max_queue", max_queue, at_least=0)
        self._max_queue = max_queue
        self.max_wait = _checked_seconds("max_wait", max_wait)
        self.name = name
        self.events = events
        self._in_use = self._waiting = 0
        self._admitted = self._shed = self._cancelled = 0
        # Waiters in order of arrival: True means handed the slot, False means time is over.
        # One that gave up stays as a tombstone (it is done), so giving up costs O(1).
        self._queue: deque[asyncio.Future[bool]] = deque()
        self._slot = Slot(self)

    @property
    def capacity(self) -> int:
        """The slots there are."""
        return self._capacity

    @property
    def max_queue(self) -> int:
        """The callers that may wait: as given, or ten times the capacity of now."""
        return self._capacity * _QUEUE_PER_SLOT if self._max_queue is None else self._max_queue

    def slot(self) -> Slot:
        """Hold one slot inside `async with`; entering waits for one when all are in use.

        Waits at most `max_wait` seconds and never past the deadline in force. Cancelled while
        waiting: no slot is held, and one that had been handed over goes to the next caller.
        When a slot is free, entering takes it without a task, a timer or (outside of any
        deadline) a look at the clock.

        Raises:
            LimitExceeded: On entering, when the queue is full or `max_wait` is over (503).
            DeadlineExceeded: On entering, when the deadline has passed or ends the wait (504).
        """
        return self._slot

    def resize(self, capacity: int) -> None:
        """Change the number of slots; new ones go to those who wait, at once.

        Making it smaller takes no slot away: `in_use` falls to it as slots are given back.

        Raises:
            InvalidSetting: When `capacity` is not a whole number of at least 1.
        """
        self._capacity = _checked_count("capacity", capacity, at_least=1)
        self._hand_on()

    def statistics(self) -> LimiterStatistics:
        """Return the counts of this moment."""
        return LimiterStatistics(
            capacity=self._capacity,
            in_use=self._in_use,
            waiting=self._waiting,
            admitted=self._admitted,
            shed=self._shed,
            cancelled=self._cancelled,
        )

    async def _wait(self, left: float | None) -> None:
        """Queue for a slot, or raise; `left` is the seconds to the deadline, if there is one."""
        if self._waiting >= self.max_queue:
            raise self._too_busy("queue-full", 0.0)
        loop = asyncio.get_running_loop()
        queued_at = loop.time()
        wait = self.max_wait if left is None else min(self.max_wait, left)
        if not await self._handed_over(loop, wait):
            waited = loop.time() - queued_at
            raise self._out_of_time(waited) if wait == left else self._too_busy("waited", waited)
        # The loop may have been late: a slot handed over after the deadline is handed on.
        late = remaining()
        if late is not None and late <= 0.0:
            self._give_back()
            raise self._out_of_time(loop.time() - queued_at)

    async def _handed_over(self, loop: asyncio.AbstractEventLoop, wait: float) -> bool:
        """Wait for the hand-over; False when `wait` seconds are over. Safe to cancel."""
        waiter: asyncio.Future[bool] = loop.create_future()
        self._queue.append(waiter)
        self._waiting += 1
        timer = loop.call_later(wait, self._expire, waiter)
        try:
            return await waiter
        except BaseException:
            self._cancelled += 1
            self._abandon(waiter)
            raise
        finally:
            timer.cancel()

    def _abandon(self, waiter: "asyncio.Future[bool]") -> None:
        """Undo what a waiter that is being cancelled had: its place or its new slot."""
        if not waiter.done() or waiter.cancelled():
            self._waiting -= 1
            waiter.cancel()
            self._bury()
        elif waiter.result():
            self._give_back()

    def _expire(self, waiter: "asyncio.Future[bool]") -> None:
        if not waiter.done():
            waiter.set_result(False)
            self._waiting -= 1
            self._bury()

    def _give_back(self) -> None:
        self._in_use -= 1
        self._hand_on()

    def _hand_on(self) -> None:
        """Hand each free slot to the first that still waits; hence nobody waits for a free one."""
        queue = self._queue
        while queue and self._in_use < self._capacity:
            waiter = queue.popleft()
            if not waiter.done():
                self._in_use += 1
                self._waiting -= 1
                waiter.set_result(True)

    def _bury(self) -> None:
        """Drop the tombstones once they outnumber the living; O(1) per waiter over time."""
        if len(self._queue) > 2 * self._waiting + _TOMBSTONES_KEPT:
            self._queue = deque(waiter for waiter in self._queue if not waiter.done())

    def _too_busy(self, reason: str, waited: float) -> LimitExceeded:
        self._refused(reason, waited)
        way_out = "raise max_queue" if reason == "queue-full" else "raise the capacity"
        return LimitExceeded(
            f"limit {self.name!r} is full ({self._numbers(waited)}); {way_out} or shed earlier",
            # Whoever is in the queue now has a slot or is gone after that time.
            retry_after=self.max_wait,
        )

    def _out_of_time(self, waited: float) -> DeadlineExceeded:
        self._refused("deadline", waited)
        return DeadlineExceeded(
            f"the deadline passed in the queue of limit {self.name!r} ({self._numbers(waited)}); "
            "raise the capacity or allow the request more time"
        )

    def _too_late(self, late: float) -> DeadlineExceeded:
        self._refused("deadline", 0.0)
        return DeadlineExceeded(
            f"the deadline had passed {late:.2f} s before limit {self.name!r} was asked; "
            "do less before it or allow the request more time"
        )

    def _refused(self, reason: str, waited: float) -> None:
        self._shed += 1
        if self.events is not None:
            self.events.emit(SlotRefused(self.name, self._capacity, self._waiting, waited, reason))

    def _numbers(self, waited: float) -> str:
        return (
            f"{self._in_use} of {self._capacity} in use, {self._waiting} waiting, "
            f"waited {waited:.2f} s"
        )


def _checked_count(argument: str, value: int, *, at_least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise InvalidSetting(
            f"{argument} of a Limiter must be a whole number of at least {at_least}, not {value!r}"
        )
    return value


def _checked_seconds(argument: str, value: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise InvalidSetting(
            f"{argument} of a Limiter must be a finite number of seconds, 0 or more, not {value!r}"
        )
    return float(value)
