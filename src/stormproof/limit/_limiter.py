"""`Limiter`: so many at once; who would wait too long is turned away on arrival."""

import asyncio
import math
from collections.abc import Coroutine, Hashable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

from stormproof._arguments import check_count, check_seconds
from stormproof._core.deadline import current_deadline, remaining
from stormproof._core.events import Events, SlotRefused
from stormproof._core.primitives import register
from stormproof.errors import StormproofError

from . import _sentences
from ._at_once import AT_ONCE
from ._backstop import Backstop
from ._prediction import COLD_WAITERS, HOLD_MARGIN, Ahead, HoldTime, Reason, refusal
from ._queue import Line, Queue, Waiter
from ._slot import Slot
from ._statistics import LimiterStatistics
from ._works import HoldSpread, Work, Works


class Limiter:
    """Lets `capacity` callers in at once, lets wait who can be served soon, sheds the rest.

    A caller that finds no free slot is let wait when it can be expected to have one in time,
    and turned away at once when not; a prediction from how fast slots came free while others
    waited decides. There is no queue length to choose. A slot that comes free goes to the
    caller that has waited longest; a newcomer never overtakes. Callers of different keys
    (tenants, users, hosts) wait in lines of their own, which take turns.

    It may be made before any event loop runs (at module level) and serves one loop at a time.
    Not thread-safe: use it from the loop's thread only.

    Args:
        capacity: Slots; at least 1.
        max_wait: Seconds a caller waits at most; finite, 0 (nobody waits) or more. A nearer
            deadline wins, less the time that a slot is held.
        target_wait: Seconds that newcomers may wait once the queue has not been empty for a
            fifth of `max_wait`; what is allowed goes down to it meanwhile. So a burst may wait
            long, and a steady overload may not. As much as `max_wait`: all may wait that long.
        per_key: Slots that callers of one key may hold at once; None for all of them. A key
            is forgotten when nobody of it is inside or waits.
        name: What messages and metrics call this limit.
        events: Where `SlotRefused` goes; also an attribute that may be set later.

    Raises:
        InvalidSetting: When a number is of the wrong type or out of its range.
    """

    __slots__ = (
        "__weakref__",
        "_admitted",
        "_backstop",
        "_cancelled",
        "_capacity",
        "_free",
        "_hold",
        "_is_closed",
        "_line",
        "_lines",
        "_loop",
        "_queue",
        "_refusals",
        "_works",
        "events",
        "max_wait",
        "name",
        "per_key",
        "target_wait",
    )

    def __init__(
        self,
        capacity: int,
        *,
        max_wait: float = 0.5,
        target_wait: float = 0.1,
        per_key: int | None = None,
        name: str = "limit",
        events: Events | None = None,
    ) -> None:
        check_count("Limiter", capacity=capacity)
        check_count("Limiter", or_none=True, per_key=per_key)
        check_seconds("Limiter", or_zero=True, max_wait=max_wait, target_wait=target_wait)
        self._capacity = capacity
        self._is_closed = False
        # Slots that may be taken now: below 0 after a `resize` to fewer than are held, or `close`.
        self._free = capacity
        self.max_wait = float(max_wait)
        self.target_wait = float(target_wait)
        self.per_key = per_key
        self.name = name
        self.events = events
        self._admitted = self._cancelled = 0
        self._refusals: dict[str, int] = {}
        self._queue = Queue()
        self._backstop = Backstop(self._expire)
        self._hold = HoldTime()
        self._works = Works()
        self._line = Line(None, math.inf)
        self._lines: dict[Hashable, Line] = {}
        self._loop: asyncio.AbstractEventLoop | None = None  # not None while somebody waits
        register("limiter", self)

    @property
    def capacity(self) -> int:
        """The slots there are."""
        return self._capacity

    def slot(
        self, key: Hashable | None = None, priority: int = 0, work: Work | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Hold one slot inside `async with`; entering waits for one when all are in use.

        Waits at most `max_wait` seconds and never past the deadline in force. Cancelled while
        waiting: no slot is held, and one that had been handed over goes to the next caller.
        When a slot is free, entering takes it without a task, a timer or (outside of any
        deadline) a look at the clock.

        Args:
            key: Whose call it is: a tenant, a user, a host. Lines of different keys take turns.
            priority: 0 for what matters most. Each step down halves the wait that is allowed,
                so that under overload lower priorities are shed first; in the queue all are
                equal.
            work: What the slot is for (a route, an operation), where kinds of work take
                different times: each has a mean of its own, by which the wait and the deadline
                are judged. Or a function that tells it when it is needed.

        Raises:
            LimitExceeded: On entering, when the wait is expected to take too long, has taken
                too long, or the limiter is closed (503); its `reason` says which.
            DeadlineExceeded: On entering, when the deadline has passed or ends the wait (504).
            InvalidSetting: `priority` is not a whole number of at least 0.
        """
        # Not keyword-only: CPython 3.11 does not specialize calls of functions that are, which
        # costs a free slot 25 ns of 390.
        if priority or key is not None or work is not None:
            if type(priority) is not int or priority < 0:  # the check itself takes 0.3 us
                check_count("slot", least=0, priority=priority)
            return Slot(self, 0.5**priority, key, work)
        return self  # has no state of its own: a free slot costs no object

    async def __aenter__(self) -> None:
        deadline = current_deadline()
        if self._free > 0 and (deadline is None or deadline.remaining() > 0.0):
            self._free -= 1
        else:
            waiter = self._line_up(1.0, self._line)
            try:
                await waiter
            except BaseException:
                self._abandon(waiter)
                raise
            self._settle(waiter)
        self._admitted += 1

    # Not `async def`, because it has nothing to wait for: a coroutine would be a tenth of what a
    # free slot costs. Entering stays one: a slot taken before it is awaited could be lost.
    def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Coroutine[Any, Any, None]:
        if self._loop is None:
            self._free += 1
        else:
            self._hand_over(self._line)
        return AT_ONCE

    def resize(self, capacity: int) -> None:
        """Change the number of slots; new ones go to those who wait, at once.

        Making it smaller takes no slot away: `in_use` falls to it as slots are given back.
        What has been measured is kept: the drain rate grows with the slots.

        Raises:
            InvalidSetting: When `capacity` is not a whole number of at least 1.
        """
        check_count("resize", capacity=capacity)
        more = capacity - self._capacity
        self._capacity = capacity
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
        for line in (self._line, *self._lines.values()):
            for waiter in line.waiters or ():
                if not waiter.done():
                    waiter.set_result("closed")
                    self._queue.gave_up(waiter)

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
            keys=len(self._lines),
        )

    # Waiting -----------------------------------------------------------------------------

    def _line_up(self, share: float, line: Line, work: Work | None = None) -> Waiter:
        """Let the caller wait in `line`, or raise; bounded by `max_wait` and its deadline.

        Who awaits it must `_settle` it or `_abandon` it afterwards. There is no coroutine that
        does all three, because each waiter would keep it: 0.2 kB.
        """
        left = remaining()
        loop = asyncio.get_running_loop()
        now = loop.time()
        own = None if work is None else self._works.expected(work)
        self._judge(now, left, share, line, own)
        waiter = Waiter(loop=loop)
        waiter.line, waiter.left, waiter.queued_at = line, left, now
        waiter.hold = None if own is None else own.mean
        if not line.waiting:
            line.busy_since = now
        if not self._queue.waiting:
            self._loop = loop
            self._hold.begin(now)
        self._queue.put(waiter)
        if left is not None and left < self.max_wait:
            timer = loop.call_at(now + left, self._expire, waiter)
            waiter.add_done_callback(lambda _: timer.cancel())
        else:
            # The prediction is meant to make it rare that a wait ends so.
            self._backstop.add(waiter, self.max_wait, self._queue.waiting)
        return waiter

    def _judge(
        self, now: float, left: float | None, share: float, line: Line, own: HoldSpread | None
    ) -> None:
        """Turn the caller away on arrival, unless it can be expected to have a slot in time."""
        if left is not None and left <= 0.0:
            raise self._refuse("deadline", 0.0, _sentences.too_late(self.name, -left))
        if self._is_closed:
            raise self._closed(0.0)
        hold = self._expected_hold(now)
        most = self.max_wait if left is None else min(self.max_wait, left)
        # A little less, lest rounding turns the last one away who may wait.
        cold = most * (1 - 1e-9) / COLD_WAITERS
        wait = self._expected_wait(line, cold if hold is None else hold)
        ahead = Ahead(
            wait=wait,
            hold=HOLD_MARGIN * (hold or 0.0) if own is None else own.most,
            left=left,
            share=share,
            is_first=self._queue.is_first(line),
            standing=now - line.busy_since if line.waiting else 0.0,
        )
        # Before anything is measured nobody knows whether the queue stands.
        target = self.max_wait if hold is None else self.target_wait
        reason = refusal(ahead, max_wait=self.max_wait, target_wait=target)
        if reason is not None:
            if own is not None and reason == "deadline":
                own.doubt()
            error = _sentences.too_busy(self.name, self._numbers(), reason, wait)
            raise self._refuse(reason, 0.0, error)

    def _expected_wait(self, line: Line, hold: float) -> float:
        # Each of those ahead needs its own time, and somebody inside has to end first.
        wait = (self._queue.ahead(line) * self._queue.hold(hold) + hold) / self._capacity
        if line.in_use >= line.most:
            return max(wait, (line.waiting + 1) * hold / line.most)
        return wait

    def _expected_hold(self, now: float) -> float | None:
        measured = (
            self._hold.expected(self._capacity, now)
            if self._queue.waiting
            else self._hold.mean(self._capacity)
        )
        return self._works.mean if measured is None else measured

    def _settle(self, waiter: Waiter) -> None:
        """Raise unless the waiter has a slot and may still use it."""
        if not self._queue.waiting:
            self._backstop.rest()
        outcome = waiter.result()
        if outcome == "granted" and waiter.left is None:
            return
        waited = waiter.get_loop().time() - waiter.queued_at
        if outcome == "closed":
            raise self._closed(waited)
        if outcome == "late" and (waiter.left is None or waiter.left >= self.max_wait):
            error = _sentences.waited(self.name, self._numbers(), waited)
            raise self._refuse("queue", waited, error)
        # The loop may have been late: a slot handed over after the deadline is handed on.
        left = remaining()
        if outcome == "late" or (left is not None and left <= 0.0):
            if outcome == "granted":
                self._give_back(waiter.line)
            late = _sentences.out_of_time(self.name, self._numbers(), waited)
            raise self._refuse("deadline", waited, late)

    def _abandon(self, waiter: Waiter) -> None:
        """Undo what a waiter that is being cancelled had: its place or its new slot."""
        self._cancelled += 1
        if not waiter.done() or waiter.cancelled():
            waiter.cancel()
            self._queue.gave_up(waiter)
        elif waiter.result() == "granted":
            self._give_back(waiter.line)
        if not self._queue.waiting:
            self._backstop.rest()

    def _expire(self, waiter: Waiter) -> None:
        if not waiter.done():
            waiter.set_result("late")
            self._queue.gave_up(waiter)

    def _line_of(self, key: Hashable) -> Line:
        """Return the line of `key`, a new one for a new key."""
        line = self._lines.get(key)
        if line is None:
            most = math.inf if self.per_key is None else self.per_key
            line = self._lines[key] = Line(key, most)
        return line

    def _forget(self, line: Line) -> None:
        """Drop the line of a key of which nobody is inside or waits."""
        if not line.in_use and not line.waiting and line is not self._line:
            self._lines.pop(line.key, None)

    # Handing over ------------------------------------------------------------------------

    def _hand_over(self, line: Line) -> None:
        """Hand a slot that is given back to who is next, and learn how long it was held."""
        if self._loop is not None and self._queue.waiting:
            self._hold.released(self._loop.time(), self._in_use())
        self._give_back(line)
        if not self._queue.waiting:
            self._loop = None

    def _give_back(self, line: Line) -> None:
        self._free += 1
        self._queue.left(line)
        self._hand_on()

    def _hand_on(self) -> None:
        """Hand each free slot to the next; hence nobody waits who may have one that is free."""
        while self._free > 0 and (waiter := self._queue.take()) is not None:
            self._free -= 1
            waiter.set_result("granted")

    def _in_use(self) -> int:
        return (0 if self._is_closed else self._capacity) - self._free

    # Refusing ----------------------------------------------------------------------------

    def _closed(self, waited: float) -> StormproofError:
        error = _sentences.closed(self.name, self._numbers(), waited)
        return self._refuse("closed", waited, error)

    def _refuse(self, reason: Reason, waited: float, error: StormproofError) -> StormproofError:
        """Count a refusal, tell of it, and return its error."""
        self._refusals[reason] = self._refusals.get(reason, 0) + 1
        if self.events is not None:
            waiting = self._queue.waiting
            self.events.emit(SlotRefused(self.name, self._capacity, waiting, waited, reason))
        return error

    def _numbers(self) -> str:
        return f"{self._in_use()} of {self._capacity} in use, {self._queue.waiting} waiting"
