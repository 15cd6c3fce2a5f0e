"""Served: what the audits of clients share, such as which request an event of the agent is of."""

from collections.abc import Iterable, Mapping
from typing import Any

from stormproof.prove._recording import AgentEvent, AttackRecord, Request

_EARLIER = 0.1
"""Seconds by which a handler may seem to have begun before its request was intended."""


def handled(record: AttackRecord) -> dict[int, AgentEvent]:
    """Return, by the number of the request, how its handler ended.

    The warm-up before the attack has numbers of its own, so the times are compared as well.
    """
    intended = {request.id: request.intended_at for request in record.requests}
    return {
        event.facts["id"]: event
        for event in record.of_kind("request")
        if event.facts["began"] >= intended.get(event.facts["id"], float("inf")) - _EARLIER
    }


def held_for(census: Mapping[str, Any] | None, requests: Iterable[Request]) -> list[Any]:
    """Return the checkouts that a census found in the hands of these requests for over 0.5 s."""
    ids = {request.id for request in requests}
    checkouts = (census or {}).get("checkouts", ())
    return [
        checkout
        for checkout in checkouts
        if checkout.get("id") in ids and float(checkout.get("held", 0.0)) > 0.5
    ]


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
