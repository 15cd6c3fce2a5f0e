"""Recordings of clients that behave badly, built by hand; an attack lasts from 0 to 20 s."""

from collections.abc import Mapping, Sequence
from typing import Any

from stormproof.prove import Recording
from stormproof.prove._recording import (
    AgentEvent,
    AttackRecord,
    Ended,
    Request,
    Route,
    RouteKind,
    Sample,
)

MENU = "GET /menu"
ENDS_AT = 20.0


def route(
    id: str = MENU, *, kind: RouteKind = "plain", seconds: float = 0.01, is_promise: bool = False
) -> Route:
    """Return a route as it was learned."""
    method, _, path = id.partition(" ")
    return Route(
        id=id,
        method=method,
        path=path,
        url=path,
        kind=kind,
        seconds=seconds,
        is_promise=is_promise,
    )


def request(
    group: str,
    *,
    id: int = 1,
    route: str = MENU,
    at: float = 1.0,
    seconds: float = 0.01,
    ended: Ended = "complete",
    status: int = 200,
    has_begun: bool = True,
) -> Request:
    """Return a request that was sent at a time and ended some seconds later."""
    return Request(
        id=id,
        route=route,
        group=group,
        intended_at=at,
        sent_at=at,
        first_byte_at=at if has_begun else None,
        last_byte_at=at + seconds,
        status=status,
        ended=ended,
    )


def event(kind: str, at: float = 5.0, **facts: Any) -> AgentEvent:
    """Return an event of the agent."""
    return AgentEvent(at=at, pid=7, kind=kind, facts=facts)


def handled(id: int, *, began: float, ended: float, route: str = MENU) -> AgentEvent:
    """Return the end of a handler."""
    return event("request", ended, id=id, route=route, began=began, ended=ended, how="returned")


def census(
    *, tasks: int = 2, threads: int = 1, fds: int = 20, checkouts: Sequence[Any] = (), **more: Any
) -> dict[str, Any]:
    """Return what the agent counted."""
    return {
        "tasks": tasks,
        "threads": threads,
        "fds": fds,
        "checkouts": list(checkouts),
        "tasks_by_name": {"serve": tasks},
        **more,
    }


def checkout(
    id: int | None, *, held: float = 3.0, route: str | None = MENU, record: int = 1
) -> dict[str, Any]:
    """Return a connection that is out of its pool."""
    return {
        "pool": "p",
        "record": record,
        "id": id,
        "route": route,
        "held": held,
        "stack": ["a.py:1 in f"],
    }


def memory(*megabytes: tuple[float, float]) -> tuple[Sample, ...]:
    """Return samples of memory: time, MB."""
    return tuple(Sample(at, round(mb * 1e6), 1, 20, 0.0, 1) for at, mb in megabytes)


def record(
    name: str = "clients",
    *,
    requests: Sequence[Request] = (),
    events: Sequence[AgentEvent] = (),
    samples: Sequence[Sample] = (),
    marks: Mapping[str, float] | None = None,
    facts: Mapping[str, Any] | None = None,
    problem: str = "",
) -> AttackRecord:
    """Return what an attack saw."""
    return AttackRecord(
        name=name,
        ended_at=ENDS_AT,
        requests=tuple(requests),
        events=tuple(events),
        samples=tuple(samples),
        marks=marks or {},
        facts=facts or {},
        problem=problem,
    )


def recording(*records: AttackRecord, routes: Sequence[Route] = (route(),)) -> Recording:
    """Return a recording of these attacks."""
    return Recording(
        app="m:app",
        server="uvicorn",
        stormproof="0",
        started="",
        machine={},
        profile={},
        routes=tuple(routes),
        attacks=records,
    )
