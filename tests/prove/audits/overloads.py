"""Recordings of overloads built by hand: 100/s of capacity, offered 250/s from 10 s to 15 s."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from stormproof.prove._overload import BEGUN, ENDED, FACT
from stormproof.prove._recording import Probe, Recording, Request

from .records import USER, health_route, recorded, request

BEGUN_AT, ENDED_AT = 10.0, 15.0
MEASURED: Mapping[str, Any] = {
    "route": USER,
    "capacity": 100.0,
    "callers": 16,
    "limited_by": "waiting",
    "busy": 0.1,
    "offered": 250.0,
    "sent": 250.0,
    "late": 0.001,
    "starved": 0.0,
    "before": 0.02,
}


def overloaded(
    requests: Iterable[Request] = (), *, probes: Iterable[Probe] = (), **measured: Any
) -> Recording:
    """Return the recording of an overload; `measured` replaces what the attack found."""
    recording = recorded(
        "overload",
        requests=requests,
        routes=[health_route("/livez", "live")],
        facts={FACT: {**MEASURED, **measured}},
        marks={BEGUN: BEGUN_AT, ENDED: ENDED_AT},
    )
    attack = replace(recording.attacks[0], canary=tuple(probes))
    return replace(recording, attacks=(attack,))


def answers(per_second: float, **fields: Any) -> list[Request]:
    """Return that many requests per second of the overload, good ones unless `fields` say."""
    count = round(per_second * (ENDED_AT - BEGUN_AT))
    return [request("overload", at=BEGUN_AT + n / per_second, **fields) for n in range(count)]


def refusal(at: float, **fields: Any) -> Request:
    """Return a 503 with Retry-After, as it should be, unless `fields` say otherwise."""
    made = request("overload", at=at, **{"status": 503, **fields})
    return replace(made, headers={"retry-after": "1"})
