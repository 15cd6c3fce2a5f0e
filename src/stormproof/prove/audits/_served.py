"""Served: what the audits of clients share, such as which request an event of the agent is of."""

from collections.abc import Iterable, Mapping
from typing import Any

from stormproof.prove._recording import AgentEvent, AttackRecord, Request

_LIBRARIES = ("/site-packages/", "/dist-packages/", "/lib/python3", "/stormproof/prove/")

_EARLIER = 0.1
"""Seconds by which a handler may seem to have begun before its request was intended."""


def handled(record: AttackRecord) -> dict[int, AgentEvent]:
    """Return, by the number of the request, how its handler ended.

    The warm-up and the canary number their requests from 1 as well, so the route and the times
    are compared, too.
    """
    requests = {request.id: request for request in record.requests}
    found: dict[int, AgentEvent] = {}
    for event in record.of_kind("request"):
        request = requests.get(event.facts["id"])
        if request is None or not _is_of(request, event.facts):
            continue
        if event.facts["began"] >= request.intended_at - _EARLIER:
            found.setdefault(request.id, event)
    return found


def held_for(census: Mapping[str, Any] | None, requests: Iterable[Request]) -> list[Any]:
    """Return the checkouts that a census found in the hands of these requests for over 0.5 s."""
    by_id = {request.id: request for request in requests}
    held = []
    for checkout in (census or {}).get("checkouts", ()):
        request = by_id.get(checkout.get("id"))
        if request is not None and _is_of(request, checkout) and float(checkout["held"]) > 0.5:
            held.append(checkout)
    return held


def _is_of(request: Request, facts: Mapping[str, Any]) -> bool:
    """Whether the agent speaks of that route; a request without one has a word in parentheses."""
    return request.route.startswith("(") or facts["route"] == request.route.partition(" #")[0]


def played_from(record: AttackRecord) -> float:
    """Return when the attack itself began: what start and warm-up did lies before."""
    if "light-load" in record.marks:
        return record.marks["light-load"]
    times = [request.intended_at for request in record.requests]
    times += [probe.at for probe in record.canary]
    return min(times, default=record.began_at)


def played_until(record: AttackRecord) -> float:
    """Return when the app was told to end, or that the attack was over."""
    stopping = [
        event.at
        for event in record.of_kind("lifespan")
        if event.facts.get("phase") in ("stopping", "stopped")
    ]
    ends = [*stopping, record.marks.get("signal", float("inf")), record.ended_at]
    return min(ends)


def has_own_line(facts: Mapping[str, Any]) -> bool:
    """Whether an event names a line, and one of the app: none of a library."""
    file = str(facts.get("file") or "")
    return bool(file) and not file.startswith("<") and not any(part in file for part in _LIBRARIES)
