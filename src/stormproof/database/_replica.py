"""A replica: a server that reads may go to, what was last seen of it, and how far it is behind."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from ._gate import Gate
from ._lookout import Lookout
from ._pool import GatedPool
from ._replica_statistics import ReplicaStatistics


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the primary had written (a position in its log) at the loop time `at`."""

    position: int
    at: float


class Replica:
    """One replica: its engine, its gate, and its state.

    Args:
        place: What messages call it.
        engine: Its engine, with a pool behind `gate`.
        gate: Where its connections are waited for.
        lookout: Asks it how far it is.
        max_lag: Seconds it may be behind, None for any.
        tell: Called with why when it is skipped from now on, with None when it is used again.
    """

    def __init__(
        self,
        place: str,
        engine: AsyncEngine,
        gate: Gate,
        lookout: Lookout,
        *,
        max_lag: float | None,
        tell: Callable[[str, str | None], None],
    ) -> None:
        self.place = place
        self.engine = engine
        self.gate = gate
        self.lookout = lookout
        self.reads = 0
        self._max_lag = max_lag
        self._tell = tell
        self._trouble: str | None = "it was not looked at yet"
        self._was_usable = True  # so that the first trouble is told
        self._caught_up_at = -math.inf

    @property
    def pool(self) -> GatedPool:
        """The pool of now; the engine makes a new one when it is disposed of."""
        pool = self.engine.pool
        assert isinstance(pool, GatedPool)
        return pool

    @property
    def load(self) -> float:
        """How much of it is asked for: above 1, readers wait."""
        return (self.gate.in_use + self.gate.waiting) / self.gate.capacity

    def is_usable(self, now: float) -> bool:
        """Whether reads go to it: it answered, and is behind by no more than it may be."""
        if self._trouble is not None:
            return False
        return self._max_lag is None or now - self._caught_up_at <= self._max_lag

    def may_be_read(self, now: float) -> bool:
        """Return `is_usable`, and tell when that has changed."""
        is_usable = self.is_usable(now)
        if is_usable != self._was_usable:
            self._was_usable = is_usable
            why = self._trouble or f"it is more than {self._max_lag:g} s behind"
            self._tell(self.place, None if is_usable else why)
        return is_usable

    def fail(self, why: str, now: float) -> None:
        """Skip it from now on, until it answers a look."""
        self._trouble = why
        self.may_be_read(now)

    def answered(self, position: int | None, marks: Iterable[Mark], now: float) -> None:
        """Note how far it is; `marks` are those of the primary, the oldest first."""
        if position is None:
            self.fail("it is no standby, or does not tell how far it is", now)
            return
        self._trouble = None
        # What the primary had written at that time is here: so it is behind by no more than
        # the time since then, whatever the clocks of the two say.
        for mark in marks:
            if mark.position <= position:
                self._caught_up_at = max(self._caught_up_at, mark.at)
        self.may_be_read(now)

    def statistics(self, now: float) -> ReplicaStatistics:
        """Return its numbers of this moment."""
        lag = now - self._caught_up_at
        is_usable = self.is_usable(now)
        return ReplicaStatistics(
            place=self.place,
            state="up" if is_usable else "lagging" if self._trouble is None else "down",
            lag=lag if math.isfinite(lag) else None,
            reads=self.reads,
            in_use=self.gate.in_use,
            waiting=self.gate.waiting,
            timeouts=self.gate.timeouts,
        )
