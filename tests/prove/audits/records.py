"""Recordings built by hand: one attack, some requests, what was noted of a dependency."""

from collections.abc import Iterable, Mapping
from typing import Any

from stormproof.prove import Recording
from stormproof.prove._recording import AgentEvent, AttackRecord, Ended, Request, Route

NAME = "DATABASE_URL"
USER = "GET /user"
OTHER = "GET /other"


def request(
    group: str,
    *,
    route: str = USER,
    status: int = 200,
    seconds: float | None = 0.01,
    ended: Ended = "complete",
    at: float = 0.0,
    id: int = 0,
) -> Request:
    return Request(
        id=id,
        route=route,
        group=group,
        intended_at=at,
        sent_at=at,
        first_byte_at=None,
        last_byte_at=None if seconds is None else at + seconds,
        status=status if ended == "complete" else 0,
        ended=ended,
    )


def event(kind: str, **facts: Any) -> AgentEvent:
    return AgentEvent(at=0.0, pid=1, kind=kind, facts=facts)


def recorded(
    name: str,
    *,
    requests: Iterable[Request] = (),
    events: Iterable[AgentEvent] = (),
    routes: Iterable[Route] = (),
    facts: Mapping[str, Any] | None = None,
    marks: Mapping[str, float] | None = None,
    problem: str = "",
    dependencies: tuple[str, ...] = (),
) -> Recording:
    record = AttackRecord(
        name=name,
        requests=tuple(requests),
        events=tuple(events),
        facts=facts or {},
        marks=marks or {},
        problem=problem,
    )
    return Recording(
        app="app:app",
        server="uvicorn",
        stormproof="0",
        started="",
        machine={},
        profile={},
        routes=tuple(routes),
        dependencies=dependencies,
        attacks=(record,),
    )


def faced(*requests: Request, marks: Mapping[str, float] | None = None, **noted: Any) -> Recording:
    """Return a recording of one dependency, whose groups and marks are named without it."""
    named = [Request(**{**_fields(each), "group": f"{each.group}:{NAME}"}) for each in requests]
    facts = {"users": [USER], "others": [OTHER], "deadline": 10.0, **noted}
    return recorded(
        "dependencies",
        requests=named,
        facts={"dependencies": {NAME: facts}},
        marks={f"{name}:{NAME}": at for name, at in (marks or {}).items()},
        dependencies=(NAME,),
    )


def health_route(path: str, role: Any) -> Route:
    return Route(id=f"GET {path}", method="GET", path=path, url=path, kind="health", health=role)


def _fields(request: Request) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.__dataclass_fields__}
