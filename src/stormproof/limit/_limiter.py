"""`Limiter`: so many at once; who would wait too long is turned away on arrival."""

import asyncio
from types import TracebackType

from stormproof._core.deadline import current_deadline, remaining
from stormproof._core.events import Events, SlotRefused
from stormproof.errors import DeadlineExceeded, LimitExceeded

from ._checked import checked_count, checked_seconds
from ._prediction import COLD_WAITERS, Ahead, HoldTime, Reason, refusal
from ._queue import Outcome, Queue, Waiter
from ._statistics import LimiterStatistics

_CLOSED_RETRY_AFTER = 1.0


class Slot:
    """One place in a limiter, held for the length of an `async with` block."""

    __slots__ = ("_limiter", "_queue", "_share")

    def __init__(self, limiter: "Limiter", share: float) -> None:
        self._limiter = limiter
        self._queue = limiter._queue
        self._share = share

    async def __aenter__(self) -> None:
        limiter = self._limiter
        deadline = current_deadline()
        if limiter._free > 0 and (deadline is None or deadline.remaining() > 0.0):
            limiter._free -= 1
        else:
            await limiter._wait(self._share)
        limiter._admitted += 1

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._queue.waiting:
            self._limiter._hand_over()
        else:
            self._limiter._free += 1


class Limiter:
    """Lets `capacity` callers in at once, lets wait who can be served soon, sheds the rest.

    A caller that finds no free slot is let wait when it can be expected to have one in time,
    and turned away at once when not; a prediction from how fast slots came free while others
    waited decides. There is no queue length to choose. A slot that comes free goes to the
    caller that has waited longest; a newcomer never overtakes.

    It may be made before any event loop runs (at module level) and serves one loop at a time.
    Not thread-safe: use it from the loop's thread only.

    Args:
        capacity: Slots; at least 1.
        max_wait: Seconds a caller waits at most; finite, 0 (nobody waits) or more. A nearer
            deadline wins, less the time that a slot is held.
        target_wait: Seconds instead of `max_wait` for newcomers once the queue has not been
            empty for `max_wait`: bursts may wait long, a steady overload may not.
        name: What messages and metrics call this limit.
        events: Where `SlotRefused` goes; also an attribute that may be set later.

    Raises:
        InvalidSetting: When a number is of the wrong type or out of its range.
    """

    __slots__ = (
        "_admitted",
        "_busy_since",
        "_cancelled",
        "_capacity",
        "_free",
        "_hold",
        "_is_closed",
        "_loop",
        "_queue",
        "_refusals",
        "_slot",
        "events",
        "max_wait",
        "name",
        "target_wait",
    )

    def __init__(
        self,
        capacity: int,
        *,
        max_wait: float = 0.5,
        target_wait: float = 0.1,
        name: str = "limit",
        events: Events | None = None,
    ) -> None:
        self._capacity = checked_count("capacity", capacity)
        self._is_closed = False
        # Slots that may be taken now: below 0 after a `resize` to fewer than are held, or `close`.
        self._free = capacity
        self.max_wait = checked_seconds("max_wait", max_wait)
        self.target_wait = checked_seconds("target_wait", target_wait)
        self.name = name
        self.events = events
        self._admitted = self._cancelled = 0
        self._refusals: dict[str, int] = {}
        self._queue = Queue()
        self._hold = HoldTime()
        self._busy_since = 0.0  # since then somebody has been waiting at any time
        self._loop: asyncio.AbstractEventLoop | None = None  # set while somebody waits
        self._slot = Slot(self, 1.0)

    @property
    def capacity(self) -> int:
        """The slots there are."""
        return self._capacity

    def slot(self) -> Slot:
        """Hold one slot inside `async with`; entering waits for one when all are in use.

        Waits at most `max_wait` seconds and never past the deadline in force. Cancelled while
        waiting: no slot is held, and one that had been handed over goes to the next caller.
        When a slot is free, entering takes it without a task, a timer or (outside of any
        deadline) a look at the clock.

        Raises:
            LimitExceeded: On entering, when the wait is expected to take too long, has taken
                too long, or the limiter is closed (503); its `reason` says which.
            DeadlineExceeded: On entering, when the deadline has passed or ends the wait (504).
        """
        return self._slot

    def resize(self, capacity: int) -> None:
        """Change the number of slots; new ones go to those who wait, at once.

        Making it smaller takes no slot away: `in_use` falls to it as slots are given back.
        What has been measured is kept: the drain rate grows with the slots.

        Raises:
            InvalidSetting: When `capacity` is not a whole number of at least 1.
        """
        more = checked_count("capacity", capacity) - self._capacity
        self._capacity += more
        if not self._is_closed:
            self._free += more
            self._hand_on()

    def close(self) -> None:
        """Turn everybody away from now on, who waits too; slots that are held stay held.

        Waits for nothing, and may be called twice. For a resource that is going away.
        """
        if not self._is_closed:
            self._is_closed = True
            self._free -= self._capacity
        while (waiter := self._queue.take()) is not None:
            waiter.set_result("closed")

    def statistics(self) -> LimiterStatistics:
        """Return the counts of this moment; for a scrape, at any time."""
        return LimiterStatistics(
            capacity=self._capacity,
            in_use=self._in_use(),
            waiting=self._queue.waiting,
            admitted=self._admitted,
            shed=sum(self._refusals.values()),
            cancelled=self._cancelled,
            refusals=dict(self._refusals),
            hold=self._hold.mean(self._capacity),
        )

    # Waiting -----------------------------------------------------------------------------

    async def _wait(self, share: float) -> None:
        """Queue for a slot, or raise."""
        left = remaining()
        loop = asyncio.get_running_loop()
        queued_at = loop.time()
        self._judge(queued_at, left, share)
        wait = self.max_wait if left is None else min(self.max_wait, left)
        waiter: Waiter = loop.create_future()
        if not self._queue.waiting:
            self._loop, self._busy_since = loop, queued_at
            self._hold.begin(queued_at)
        self._queue.put(waiter)
        # The backstop: the prediction is meant to make it rare.
        timer = loop.call_at(queued_at + wait, self._expire, waiter)
        try:
            outcome = await waiter
        except BaseException:
            self._cancelled += 1
            self._abandon(waiter)
            raise
        finally:
            timer.cancel()
        if outcome != "granted" or left is not None:
            self._check(outcome, loop.time() - queued_at, is_late=wait == left)

    def _judge(self, now: float, left: float | None, share: float) -> None:
        """Turn the caller away on arrival, unless it can be expected to have a slot in time."""
        if left is not None and left <= 0.0:
            raise self._too_late(-left)
        if self._is_closed:
            raise self._closed(0.0)
        waiting = self._queue.waiting
        allowed = self.max_wait if left is None else min(self.max_wait, left)
        hold = self._expected_hold(now)
        wait = (waiting + 1) * (allowed / COLD_WAITERS if hold is None else hold) / self._capacity
        ahead = Ahead(wait, hold or 0.0, left, share, is_first=not waiting and allowed > 0.0)
        is_standing = waiting and now - self._busy_since > self.max_wait
        target_wait = self.target_wait if is_standing else None
        reason = refusal(ahead, max_wait=self.max_wait, target_wait=target_wait)
        if reason is not None:
            raise self._too_busy(reason, ahead.wait)

    def _expected_hold(self, now: float) -> float | None:
        if self._queue.waiting:
            return self._hold.expected(self._capacity, now)
        return self._hold.mean(self._capacity)

    def _check(self, outcome: Outcome, waited: float, *, is_late: bool) -> None:
        """Raise unless the waiter has a slot and may still use it."""
        if outcome == "closed":
            raise self._closed(waited)
        if outcome == "late":
            raise self._out_of_time(waited) if is_late else self._waited(waited)
        # The loop may have been late: a slot handed over after the deadline is handed on.
        left = remaining()
        if left is not None and left <= 0.0:
            self._give_back()
            raise self._out_of_time(waited)

    def _abandon(self, waiter: Waiter) -> None:
        """Undo what a waiter that is being cancelled had: its place or its new slot."""
        if not waiter.done() or waiter.cancelled():
            waiter.cancel()
            self._queue.gave_up()
        elif waiter.result() == "granted":
            self._give_back()

    def _expire(self, waiter: Waiter) -> None:
        if not waiter.done():
            waiter.set_result("late")
            self._queue.gave_up()

    # Handing over ------------------------------------------------------------------------

    def _hand_over(self) -> None:
        """Give a slot that is given back to who has waited longest; somebody waits."""
        assert self._loop is not None
        self._hold.released(self._loop.time(), self._in_use())
        self._give_back()

    def _give_back(self) -> None:
        self._free += 1
        self._hand_on()

    def _hand_on(self) -> None:
        """Hand each free slot to the first that still waits; hence nobody waits for a free one."""
        queue = self._queue
        while self._free > 0 and (waiter := queue.take()) is not None:
            self._free -= 1
            waiter.set_result("granted")

    def _in_use(self) -> int:
        return (0 if self._is_closed else self._capacity) - self._free

    # Refusing ----------------------------------------------------------------------------

    def _too_busy(self, reason: Reason, wait: float) -> LimitExceeded:
        self._refused(reason, 0.0)
        return LimitExceeded(
            f"limit {self.name!r} is full ({self._numbers()}, a wait of {wait:.2f} s ahead); "
            f"{_WAYS_OUT[reason]}",
            reason=reason,
            # Whoever is in the queue now has a slot by then.
            retry_after=wait,
        )

    def _waited(self, waited: float) -> LimitExceeded:
        self._refused("queue", waited)
        return LimitExceeded(
            f"limit {self.name!r} is full ({self._numbers()}, waited {waited:.2f} s); "
            f"{_WAYS_OUT['queue']}",
            reason="queue",
            retry_after=self.max_wait,
        )

    def _closed(self, waited: float) -> LimitExceeded:
        self._refused("closed", waited)
        return LimitExceeded(
            f"limit {self.name!r} is closed ({self._numbers()}, waited {waited:.2f} s); "
            "try again later, or elsewhere",
            reason="closed",
            retry_after=_CLOSED_RETRY_AFTER,
        )

    def _out_of_time(self, waited: float) -> DeadlineExceeded:
        self._refused("deadline", waited)
        return DeadlineExceeded(
            f"the deadline passed in the queue of limit {self.name!r} ({self._numbers()}, "
            f"waited {waited:.2f} s); raise the capacity or allow the request more time",
            retry_after=self.max_wait,
        )

    def _too_late(self, late: float) -> DeadlineExceeded:
        self._refused("deadline", 0.0)
        return DeadlineExceeded(
            f"the deadline had passed {late:.2f} s before limit {self.name!r} was asked; "
            "do less before it or allow the request more time",
            retry_after=self.max_wait,
        )

    def _refused(self, reason: Reason, waited: float) -> None:
        self._refusals[reason] = self._refusals.get(reason, 0) + 1
        if self.events is not None:
            waiting = self._queue.waiting
            self.events.emit(SlotRefused(self.name, self._capacity, waiting, waited, reason))

    def _numbers(self) -> str:
        return f"{self._in_use()} of {self._capacity} in use, {self._queue.waiting} waiting"


_WAYS_OUT: dict[Reason, str] = {
    "queue": "raise the capacity or max_wait, or shed earlier",
    "target": "it has been full for a while: raise the capacity, or shed earlier",
    "deadline": "it would be too late: raise the capacity or allow the request more time",
    "priority": "more important callers go first: raise the capacity or the priority",
}
