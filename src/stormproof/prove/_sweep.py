"""What the sweep of callers measured: in its record, for the audit that looks for a cliff."""

from dataclasses import dataclass
from typing import Any

from ._recording import AttackRecord

FACT = "sweep"
"""Where it is in the record's facts."""

PATIENCE = 2.5
"""Seconds until a caller gives up and asks again."""

CLIFF = 0.7
"""Of the best number of answers per second; below it the app has fallen off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """So many callers at once, each asking again as soon as it has its answer.

    Attributes:
        callers: How many.
        rate: Good answers per second.
        share: `rate` of the best, measured beside it where it was low.
        asked: Requests.
        errors: Answers with status 500.
        refused: Answers with 503 or 429.
        unanswered: Requests without a whole answer within `PATIENCE`.
        is_cpu_limited: Whether a process of the server was busy all the time.
        starved: Share of the time in which that process waited for a core.
    """

    callers: int
    rate: float
    share: float
    asked: int
    errors: int
    refused: int
    unanswered: int
    is_cpu_limited: bool
    starved: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """The steps, fewest callers first; it ends at the first that is confirmed to be low.

    Attributes:
        routes: Ids of the routes that were asked, in turns.
        threads: For `def` code.
        pool: Connections of the largest pool, overflow included; 0: none is known.
        steps: What was measured.
    """

    routes: tuple[str, ...]
    threads: int
    pool: int
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, record: AttackRecord) -> "Sweep | None":
        """Return what the attack left in its record."""
        facts: dict[str, Any] | None = record.facts.get(FACT)
        if facts is None:
            return None
        steps = tuple(Step(**step) for step in facts["steps"])
        return cls(**{**facts, "routes": tuple(facts["routes"]), "steps": steps})

    @property
    def peak(self) -> Step:
        """The step with the most answers per second."""
        return max(self.steps, key=lambda step: step.rate)
