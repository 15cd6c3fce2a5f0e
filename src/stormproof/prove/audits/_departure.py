"""Departure: what the ledger and the agent say about the time around SIGTERM."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from stormproof.prove._audit import Blame, Judgement, Series
from stormproof.prove._recording import AttackRecord, Request

UNSEEN = 0.25
"""Seconds in which a server may not have read what was sent: a request sent later than that
before the signal was in flight only if the app is known to have begun it."""

_ABRUPT = 0.02
"""The same where the app never began to shut down: it went away in mid-work, so nothing raced."""

_WORDS: Mapping[str, str] = {"timeout": "never answered", "truncated": "cut in mid-answer"}

_BEFORE = 2.0
_POINTS = 200

LATE_GROUPS = ("steady", "fresh", "promise", "kept")


def signal_at(record: AttackRecord) -> float | None:
    """Return when SIGTERM was sent; None where the attack did not get that far."""
    return record.marks.get("signal")


def sent_at(request: Request) -> float:
    """Return when a request was sent, or was wanted sent where nobody took it."""
    return request.intended_at if request.sent_at is None else request.sent_at


def in_flight(record: AttackRecord, signal: float) -> list[Request]:
    """Return the requests that the app had and had not answered when SIGTERM came."""
    begun = _begun_before(record, signal)
    has_begun_shutdown = not record.events or bool(phases(record, "stopping"))
    unseen = UNSEEN if has_begun_shutdown else _ABRUPT
    return [
        request
        for request in record.of_group("steady", "fresh", "promise", "held")
        if request.sent_at is not None and request.sent_at <= signal
        if request.last_byte_at is None or request.last_byte_at > signal
        if request.ended == "complete" or request.id in begun or request.sent_at <= signal - unseen
    ]


def on_kept_connections(record: AttackRecord, signal: float) -> list[Request]:
    """Return what was sent, or was to be sent, on used connections after SIGTERM.

    What was sent right before it and lost unseen belongs here too: its connection was closed
    under it.
    """
    begun = {request.id for request in in_flight(record, signal)}
    return [
        request
        for request in record.of_group(*LATE_GROUPS)
        if request.is_reused and request.id not in begun
        if sent_at(request) > signal
        or (sent_at(request) > signal - UNSEEN and request.ended in ("reset", "truncated"))
    ]


def arrived_late(record: AttackRecord, signal: float, lag: float) -> list[Request]:
    """Return the requests of new connections that were sent within `lag` after SIGTERM."""
    return [
        request
        for request in record.of_group(*LATE_GROUPS)
        if not request.is_reused and signal < sent_at(request) <= signal + lag
    ]


def ailing_routes(record: AttackRecord, signal: float) -> frozenset[str]:
    """Return the routes that answered 5xx before SIGTERM already: a 5xx of theirs says nothing."""
    return frozenset(
        request.route
        for request in record.requests
        if request.status >= 500 and (request.last_byte_at or signal) < signal
    )


def phases(record: AttackRecord, phase: str) -> frozenset[int]:
    """Return the processes whose lifespan came to that phase."""
    return frozenset(
        event.pid for event in record.of_kind("lifespan") if event.facts.get("phase") == phase
    )


def judged_by_losses(
    lost: Collection[Request],
    signal: float,
    *,
    display: str,
    blame: Blame,
    series: tuple[Series, ...] = (),
) -> Judgement:
    """Return the judgement of an audit that allows no request to be lost."""
    return Judgement(
        outcome="fail" if lost else "pass",
        display=display,
        value=float(len(lost)),
        unit="requests",
        limit=0.0,
        blame=blame,
        losses=told(lost, signal),
        series=series,
        routes=tuple(dict.fromkeys(request.route for request in lost)),
    )


def counted(requests: Iterable[Request]) -> str:
    """Return how they ended, "5 reset, 2 answered 500"."""
    return listed(Counter(_end(request) for request in requests))


def by_route(requests: Iterable[Request]) -> str:
    """Return of which routes they were, "GET /slow 6, GET /items 1"."""
    counts = Counter(request.route for request in requests).most_common(4)
    return ", ".join(f"{route} {count}" for route, count in counts)


def listed(counts: Mapping[str, int]) -> str:
    """Return the counts in words, the most first."""
    return ", ".join(f"{n} {word}" for word, n in Counter(counts).most_common())


def told(requests: Iterable[Request], signal: float) -> tuple[str, ...]:
    """Return one line for each of the first five: which route, when sent, how and when ended."""
    lines = []
    for request in sorted(requests, key=sent_at)[:5]:
        line = f"{request.route}: sent {moment(sent_at(request), signal)}, {_end(request)}"
        if request.last_byte_at is not None:
            line += f" {moment(request.last_byte_at, signal)}"
        lines.append(line)
    return tuple(lines)


def moment(at: float, signal: float) -> str:
    """Return a time as "0.42 s before SIGTERM"."""
    return f"{abs(at - signal):.2f} s {'after' if at >= signal else 'before'} SIGTERM"


def still_open(
    record: AttackRecord, requests: Iterable[Request], signal: float, *, what: str
) -> Series:
    """Return how many were open from 2 s before SIGTERM to the end, in 200 points."""
    rows = [
        (request.sent_at, request.last_byte_at)
        for request in requests
        if request.sent_at is not None and request.last_byte_at is not None
    ]
    gone = signal if record.exit is None else record.exit.at
    begin, end = signal - _BEFORE, max(gone, signal + _BEFORE)
    times = [begin + (end - begin) * number / _POINTS for number in range(_POINTS + 1)]
    return Series(
        title=f"{what} open",
        unit=what,
        points=tuple((at, float(sum(sent <= at < last for sent, last in rows))) for at in times),
        marks={"SIGTERM": signal, "gone": gone},
    )


def _begun_before(record: AttackRecord, signal: float) -> frozenset[int]:
    # `began` and `ended` are taken as a length: only the event's own time is surely the recording's
    return frozenset(
        int(event.facts["id"])
        for event in record.of_kind("request")
        if event.facts.get("id") is not None
        if event.at - (event.facts["ended"] - event.facts["began"]) <= signal
    )


def _end(request: Request) -> str:
    if request.ended == "complete":
        return f"answered {request.status}"
    return _WORDS.get(request.ended, request.ended)
