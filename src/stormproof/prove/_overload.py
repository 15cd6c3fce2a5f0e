"""What the overload attack measured beside its requests: in its record, for four audits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ._audit import Judgement, not_applicable, not_measured
from ._recording import AttackRecord, Recording, Request

FACT = "overload"
"""Where it is in the record's facts."""

NO_WAY, NO_USE = "overload-impossible", "overload-pointless"
"""Facts: why nothing could be overloaded from here, or why there is nothing to overload."""

BEGUN, ENDED = "overload-begun", "overload-ended"
"""Marks: the first and the last sending of the overload."""

PATIENCE = 1.0
"""Seconds until the overload's clients give up."""

FILLED = 2.0
"""Seconds after which any queue has grown past the clients' patience, if it grows at all.

At 2.5 times the capacity a queue without a bound is 1 s long after 0.7 s, and the last caller
that was early enough has its answer 1 s later.
"""

LEAST_OVERLOAD = 1.5
"""Times the capacity that must really have been sent before a pass says anything."""

STARVED = 0.2
"""Share of the time a server may have waited for a core and still be held to the limits: slots
are held longer where each step of their work waits for one."""

COLLAPSE = 0.1
"""Below it (of the capacity, of the best rate, or of the requests) nothing but a queue without an
end explains it, however busy the machine is."""

RECOVERY_STEP = 0.5
_RECOVERED_SHARE = 0.9
_RECOVERY_FLOOR = 0.05

CPU_WORDS = "nothing but the CPU limits it, so there is no queue in the app to end: add processes"
"""For an app that waits for nothing: what a server makes of too many requests is chance then.

Measured with 4 ms of CPU a request on uvicorn, at 2.5 times the capacity: from one run to the next
0 to 100 % answered in time, as connections that were given up are read first or last.
"""

LimitedBy = Literal["waiting", "cpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overload:
    """The overload as it was set and as it came out.

    Attributes:
        route: Id of the route that was overloaded: the narrowest that could be.
        capacity: Good answers per second at the best number of callers.
        callers: That number.
        limited_by: `waiting`: callers wait for slots, connections, threads or a dependency;
            `cpu`: a process of the server is busy all the time.
        busy: Share of the time that its busiest process ran or waited for a core, at capacity.
        offered: Requests per second the overload wanted to send.
        sent: Requests per second it sent.
        late: 99th percentile of how late the generator's own timers were, seconds.
        starved: Share of the overload in which the server's busiest process waited for a core.
        before: 90th percentile of the answer time before it, at the rate of the recovery, seconds.
    """

    route: str
    capacity: float
    callers: int
    limited_by: LimitedBy
    busy: float
    offered: float
    sent: float
    late: float
    starved: float
    before: float

    @classmethod
    def of(cls, record: AttackRecord) -> "Overload | None":
        """Return what the attack left in its record; None when nothing was overloaded."""
        facts: dict[str, Any] | None = record.facts.get(FACT)
        return None if facts is None else cls(**facts)

    @property
    def is_generator_late(self) -> bool:
        """Whether the load generator was itself too late for its figures to be the app's."""
        return self.late > PATIENCE / 4

    @property
    def is_excused(self) -> bool:
        """Whether other work on the machine took so much that a loss is not the app's."""
        return self.starved > STARVED

    @property
    def excuse(self) -> str:
        """What to say then."""
        return (
            f"the machine was too busy to say more: {100 * self.starved:.0f} % of the time the "
            "server waited for a core"
        )

    @property
    def words(self) -> str:
        """What was offered to what, for a display."""
        return f"{self.route} offered {self.offered:,.0f}/s at a capacity of {self.capacity:,.0f}/s"


def overloaded(recording: Recording) -> tuple[AttackRecord, Overload] | Judgement:
    """Return the attack and what it measured, or what an audit says where there is none."""
    record = recording.attack("overload")
    if record is None:
        return not_measured("the overload was not run")
    if record.problem:
        return not_measured(f"the overload could not be run: {record.problem}")
    if reason := record.facts.get(NO_USE):
        return not_applicable(reason)
    overload = Overload.of(record)
    if overload is None:
        return not_measured(record.facts.get(NO_WAY, "nothing was overloaded"))
    return record, overload


def p90(values: Sequence[float]) -> float:
    """Return the 90th percentile; 0 of nothing."""
    return sorted(values)[int(0.9 * len(values))] if values else 0.0


def recovery_limit(before: float) -> float:
    """Return the answer time, in seconds, below which the app has recovered: twice the time before.

    50 ms above the time before are always allowed: twice 2 ms is noise.
    """
    return max(2 * before, before + _RECOVERY_FLOOR)


def recovered_after(requests: Sequence[Request], *, ended_at: float, limit: float) -> float | None:
    """Return how many seconds after `ended_at` answers were good and quick again; None: not yet.

    The requests are looked at in steps of half a second of their intended times. Recovered is
    where two steps with requests in a row have nine of ten answered well within `limit`.
    """
    steps: dict[int, list[bool]] = {}
    for request in requests:
        is_quick = request.is_good and (request.latency or 0.0) <= limit
        step = int((request.intended_at - ended_at) / RECOVERY_STEP)
        steps.setdefault(step, []).append(is_quick)
    good_since: float | None = None
    for step, quick in sorted(steps.items()):
        if sum(quick) < _RECOVERED_SHARE * len(quick):
            good_since = None
        elif good_since is None:
            good_since = step * RECOVERY_STEP
        else:
            return max(0.0, good_since)
    return None
