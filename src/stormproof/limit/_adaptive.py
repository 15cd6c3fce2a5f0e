"""`Adaptive`: a limit that finds its own number, for a resource of which nobody knows it."""

import asyncio
import math
from collections.abc import Hashable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType

from stormproof._arguments import check_count, check_seconds
from stormproof._core.events import Events
from stormproof._core.primitives import register

from ._limiter import Limiter
from ._statistics import LimiterStatistics
from ._works import Work

_BACK_OFF = 0.9
_BACK_OFF_FAST = 0.5


@dataclass(frozen=True, slots=True)
class Aimd:
    """Additive increase, multiplicative decrease of a limit; a value, no clock, no loop.

    Attributes:
        limit: The limit now, with its fraction.
        lowest: It never goes below.
        highest: It never goes above.
        target_latency: Seconds; a call that took longer says that the limit is too high.
        cut_at: When it was last lowered. Calls that began before that tell nothing new.
    """

    limit: float
    lowest: int
    highest: int
    target_latency: float
    cut_at: float = -math.inf

    def after(
        self, *, began_at: float, ended_at: float, in_use: int, has_timed_out: bool = False
    ) -> "Aimd":
        """Return what follows from one call that held one of `in_use` slots.

        Slow: the limit times 0.9 (0.5 when it took more than twice the target: such a round is
        long, so there are few), once for all calls that were under way. Quick: 1 / limit
        more, so about one a round, and only where the limit was felt (half of it in use):
        quick calls on an idle resource say nothing about a higher limit.

        Source: D.-M. Chiu, R. Jain, "Analysis of the Increase and Decrease Algorithms for
        Congestion Avoidance in Computer Networks", 1989.
        """
        if has_timed_out or ended_at - began_at > self.target_latency:
            if began_at < self.cut_at:
                return self
            is_far = ended_at - began_at > 2.0 * self.target_latency
            lower = self.limit * (_BACK_OFF_FAST if is_far else _BACK_OFF)
            return self._with(max(float(self.lowest), lower), ended_at)
        if in_use * 2 < self.limit:
            return self
        return self._with(min(float(self.highest), self.limit + 1.0 / self.limit), self.cut_at)

    def _with(self, limit: float, cut_at: float) -> "Aimd":
        return Aimd(limit, self.lowest, self.highest, self.target_latency, cut_at)


class Adaptive:
    """A `Limiter` whose capacity follows the latency of what it lets in.

    For an upstream or a service whose capacity is not known or changes. Where it is known (the
    size of a pool), a plain `Limiter` is better: it has nothing to find out.

    A call counts with the time it held its slot, the wait for that not included. A call that is
    cancelled or raises tells nothing about the resource and is not counted, but a
    `TimeoutError` (a passed deadline too) counts as too slow.

    Args:
        target_latency: Seconds a call may take when all is well, above 0. Two or three times
            what it takes on an idle resource.
        start: The limit at first.
        lowest: It never goes below.
        highest: It never goes above.
        max_wait, target_wait, per_key, name, events: As for `Limiter`.

    Raises:
        InvalidSetting: When a number is of the wrong type or out of its range.
    """

    def __init__(
        self,
        target_latency: float,
        *,
        start: int = 10,
        lowest: int = 1,
        highest: int = 1000,
        max_wait: float = 0.5,
        target_wait: float = 0.1,
        per_key: int | None = None,
        name: str = "limit",
        events: Events | None = None,
    ) -> None:
        check_seconds("Adaptive", target_latency=target_latency)
        check_count("Adaptive", lowest=lowest)
        check_count("Adaptive", least=lowest, highest=highest, start=start)
        self._aimd = Aimd(float(min(start, highest)), lowest, highest, float(target_latency))
        self.limiter = Limiter(
            min(start, highest),
            max_wait=max_wait,
            target_wait=target_wait,
            per_key=per_key,
            name=name,
            events=events,
        )
        register("adaptive", self.limiter)

    @property
    def capacity(self) -> int:
        """The slots there are now."""
        return self.limiter.capacity

    @property
    def events(self) -> Events | None:
        """Where `SlotRefused` goes."""
        return self.limiter.events

    @events.setter
    def events(self, events: Events | None) -> None:
        self.limiter.events = events

    def slot(
        self, key: Hashable | None = None, priority: int = 0, work: Work | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Hold one slot inside `async with`, as `Limiter.slot`; how long is measured."""
        return _TimedSlot(self, self.limiter.slot(key, priority, work))

    def statistics(self) -> LimiterStatistics:
        """Return the counts of this moment, as `Limiter.statistics`."""
        return self.limiter.statistics()

    def close(self) -> None:
        """Turn everybody away from now on, as `Limiter.close`."""
        self.limiter.close()

    def _learn(self, began_at: float, *, has_timed_out: bool) -> None:
        self._aimd = self._aimd.after(
            began_at=began_at,
            ended_at=asyncio.get_running_loop().time(),
            in_use=self.limiter._in_use(),
            has_timed_out=has_timed_out,
        )
        capacity = int(self._aimd.limit)
        if capacity != self.limiter.capacity:
            self.limiter.resize(capacity)


class _TimedSlot:
    """A slot that tells how long it was held; to be entered once."""

    __slots__ = ("_adaptive", "_began_at", "_slot")

    def __init__(self, adaptive: Adaptive, slot: AbstractAsyncContextManager[None]) -> None:
        self._adaptive = adaptive
        self._slot = slot

    async def __aenter__(self) -> None:
        await self._slot.__aenter__()
        self._began_at = asyncio.get_running_loop().time()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, TimeoutError):
            self._adaptive._learn(self._began_at, has_timed_out=error is not None)
        await self._slot.__aexit__(kind, error, traceback)
