"""What an audit is: words a person reads, and a pure function of the recording."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ._recording import Recording

Verdict = Literal["pass", "should", "fail", "n-a", "not-measured", "unstable"]
"""pass; should: a SHOULD that was not met; fail: a MUST that was not met; n-a: the app has
nothing it could apply to; not-measured: the attack or the agent did not get that far; unstable:
the rounds disagreed, so it is told and not counted."""

Blame = Literal["app", "server", "platform"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """One way out: with plain FastAPI, or with stormproof; code before and after."""

    title: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A line to plot: seconds since the recording began, and values in one unit."""

    title: str
    unit: str
    points: tuple[tuple[float, float], ...]
    marks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What an audit's function says.

    Attributes:
        outcome: `pass`, `fail`, `n-a` or `not-measured`; MUST or SHOULD is the audit's to know.
        display: One line a tired person understands: what, how many, of how many, where.
        value: The figure that was judged, in `unit`; None where there is none.
        limit: What the figure was held against.
        losses: The first five things that went wrong, one line each.
        stack: Where in the app, innermost last; empty where no line is to blame.
    """

    outcome: Literal["pass", "fail", "n-a", "not-measured"]
    display: str
    value: float | None = None
    unit: str = ""
    limit: float | None = None
    blame: Blame = "app"
    losses: tuple[str, ...] = ()
    stack: tuple[str, ...] = ()
    series: tuple[Series, ...] = ()
    routes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """One question to an app.

    Attributes:
        id: Public and stable, `drain-in-flight`; its page is `docs/audits/<id>.md`.
        is_must: Whether a fail counts in the exit code.
        passing: Its title when it passes: a sentence.
        failing: Its title when it fails.
        why: What happens to users when it fails, in a few sentences.
        fixes: Plain FastAPI first, then with stormproof.
        attacks: The attacks it reads; with `--only` these alone are run.
        is_timed: Whether noise could fail it: a fail is run again and must be unanimous.
        needs_agent: Whether it can be judged only with the agent inside the app.
        weight: Of its share in the score.
    """

    id: str
    is_must: bool
    passing: str
    failing: str
    why: str
    fixes: tuple[Fix, ...]
    attacks: tuple[str, ...]
    judge: Callable[[Recording], Judgement]
    is_timed: bool = False
    needs_agent: bool = False
    weight: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An audit and what became of it: one entry of the report."""

    audit: Audit
    verdict: Verdict
    judgement: Judgement
    repro: str
    rounds: int = 1

    @property
    def title(self) -> str:
        """The sentence that heads it."""
        is_bad = self.verdict in ("fail", "should", "unstable")
        return self.audit.failing if is_bad else self.audit.passing


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings of one recording, the worst first; `score` is None without real 2xx traffic."""

    recording: Recording
    findings: tuple[Finding, ...]
    score: int | None
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The MUSTs that were not met."""
        return tuple(finding for finding in self.findings if finding.verdict == "fail")


def not_measured(why: str) -> Judgement:
    """Return the judgement of an audit that could not be made."""
    return Judgement(outcome="not-measured", display=why)


def not_applicable(why: str) -> Judgement:
    """Return the judgement of an audit that the app gives no occasion for."""
    return Judgement(outcome="n-a", display=why)


def as_json(value: Any) -> Any:
    """Return dataclasses, tuples and mappings as what `json` writes; callables are left out."""
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is not None:
        pairs = ((name, getattr(value, name)) for name in fields)
        return {name: as_json(item) for name, item in pairs if not callable(item)}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    return value
