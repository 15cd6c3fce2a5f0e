"""`loop-blocking`: no code holds the event loop for more than 100 ms."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stormproof.prove._audit import Audit, Fix, Judgement, not_measured
from stormproof.prove._recording import AttackRecord, Recording

from ._served import has_own_line, played_from, played_until

LIMIT = 0.1
"""Seconds that one step of the loop may take."""

_OFTEN = 3
_SHARE = 0.1
_LONG = 0.3
_ONCE = 2.0
"""A function is told when it held the loop three times and in a tenth of its routes' requests, or
twice for 0.3 s, or once for 2 s. Less may be the machine: the agent takes off the time in which
the loop waited for a core, not that in which it waited for a thread that had none.
"""


@dataclass(frozen=True, slots=True)
class _Stall:
    record: AttackRecord
    facts: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Place:
    """A line that stalled the loop, and how: seconds, longest first."""

    where: str
    routes: tuple[str, ...]
    seconds: tuple[float, ...]
    stack: tuple[str, ...]

    @property
    def said(self) -> str:
        routes = ", ".join(self.routes) or "no request"
        return (
            f"{self.where} held the loop {len(self.seconds)} times, "
            f"for up to {1000 * self.seconds[0]:.0f} ms ({routes})"
        )


def _judge(recording: Recording) -> Judgement:
    if not any(recording.measured()):
        return not_measured("no attack was played")
    places = sorted(_places(recording), key=lambda place: -sum(place.seconds))
    if not places:
        played = sum(1 for _ in recording.measured())
        return Judgement(
            outcome="pass",
            display=f"no line of the app held the event loop for more than {1000 * LIMIT:.0f} ms "
            f"in {played} attacks",
            limit=LIMIT,
            unit="s",
        )
    worst = places[0]
    return Judgement(
        outcome="fail",
        display=worst.said,
        value=max(place.seconds[0] for place in places),
        unit="s",
        limit=LIMIT,
        losses=tuple(place.said for place in places[:5]),
        stack=worst.stack,
        routes=tuple(dict.fromkeys(route for place in places for route in place.routes)),
    )


def _places(recording: Recording) -> Iterator[_Place]:
    stalls: dict[str, list[_Stall]] = defaultdict(list)
    for stall in _stalls(recording):
        stalls[_key(stall.facts)].append(stall)
    for found in stalls.values():
        found.sort(key=lambda stall: -stall.seconds)
        if not _is_sure(found):
            continue
        worst = found[0].facts
        routes = dict.fromkeys(str(stall.facts["route"]) for stall in found if stall.facts["route"])
        yield _Place(
            where=_where(worst),
            routes=tuple(routes),
            seconds=tuple(stall.seconds for stall in found),
            stack=tuple(map(str, worst.get("stack", ()))),
        )


def _is_sure(found: Sequence[_Stall]) -> bool:
    """Whether stalls of one place, the longest first, can be no accident."""
    if found[0].seconds >= _ONCE or (len(found) > 1 and found[1].seconds >= _LONG):
        return True
    if len(found) < _OFTEN:
        return False
    by_attack: dict[str, list[_Stall]] = defaultdict(list)
    for stall in found:
        by_attack[stall.record.name].append(stall)
    return any(len(stalls) >= _SHARE * _handled(stalls) for stalls in by_attack.values())


def _handled(stalls: Sequence[_Stall]) -> int:
    """Return how many requests the routes of these stalls have had in that attack."""
    routes = {stall.facts.get("route") for stall in stalls}
    return sum(event.facts["route"] in routes for event in stalls[0].record.of_kind("request"))


def _stalls(recording: Recording) -> Iterator[_Stall]:
    """Yield the stalls that the app answers for, start and end of its process left out."""
    for record in recording.measured():
        first, last = played_from(record), played_until(record)
        for event in record.of_kind("stall"):
            stall = _Stall(record, event.facts, float(event.facts["seconds"]))
            is_within = first <= event.at - stall.seconds and event.at <= last
            if is_within and stall.seconds > LIMIT and _is_the_apps(stall.facts):
                yield stall


def _is_the_apps(facts: Mapping[str, Any]) -> bool:
    """Whether a request caused it, or a line that is no library's."""
    return bool(facts.get("route")) or has_own_line(facts)


def _key(facts: Mapping[str, Any]) -> str:
    """Return what stalls of one cause have in common: the function, else the route."""
    if facts.get("file"):
        return f"{facts['file']} {facts.get('function')}"
    return str(facts["route"])


def _where(facts: Mapping[str, Any]) -> str:
    if facts.get("file"):
        return f"{facts['file']}:{facts.get('line')} in {facts.get('function')}"
    return "code of a library"


AUDIT = Audit(
    id="loop-blocking",
    is_must=True,
    passing="Nothing holds the event loop for more than 100 ms",
    failing="A line of code holds the event loop, and every other request stands still meanwhile",
    why=(
        "One process serves all its requests from one thread. While a call in an `async def` "
        "does not give that thread back (a sleep, a synchronous HTTP or database call, a slow "
        "regular expression, the JSON of a large object), nobody else is served: health probes "
        "time out, heartbeats stop, deadlines fire late. At 300 ms a call, four calls a second "
        "are the capacity of the whole process."
    ),
    fixes=(
        Fix(
            title="Await an asynchronous call, or hand the blocking one to a thread",
            before=(
                "@app.get('/report')\n"
                "async def report() -> bytes:\n"
                "    return requests.get(REPORTS).content  # the loop waits\n"
            ),
            after=(
                "@app.get('/report')\n"
                "async def report() -> bytes:\n"
                "    return (await client.get(REPORTS)).content\n"
                "\n"
                "@app.get('/sum')\n"
                "async def checksum() -> str:\n"
                "    return await run_in_threadpool(slow_checksum)  # where it frees the GIL\n"
            ),
        ),
        Fix(
            title="With stormproof: calls of a bounded client",
            before="quote = requests.get(QUOTES).json()\n",
            after="quote = (await quotes.get('/latest')).json()  # stormproof.Upstream\n",
        ),
    ),
    attacks=("baseline", "clients"),
    judge=_judge,
    needs_agent=True,
    weight=5,
)
