"""Recordings of a departure, built by hand: SIGTERM is at 10 s, the grace is 10 s."""

from collections.abc import Mapping, Sequence
from typing import Any

from stormproof.prove import Recording
from stormproof.prove._recording import AgentEvent, AttackRecord, Ended, Exit, Request, Route

SIGNAL = 10.0
GRACE = 10.0


def request(
    sent: float | None,
    ended_at: float | None,
    *,
    ended: Ended = "complete",
    status: int = 200,
    group: str = "steady",
    id: int = 1,
    route: str = "GET /a",
    is_reused: bool = False,
) -> Request:
    """Return a request whose times are given in seconds from SIGTERM."""
    return Request(
        id=id,
        route=route,
        group=group,
        intended_at=SIGNAL + (0.0 if sent is None else sent),
        sent_at=None if sent is None or ended == "refused" else SIGNAL + sent,
        first_byte_at=SIGNAL + (sent or 0.0) if group == "stream" else None,
        last_byte_at=None if ended_at is None else SIGNAL + ended_at,
        status=status if ended in ("complete", "truncated") else 0,
        ended=ended,
        is_reused=is_reused,
    )


def event(kind: str, at: float = 1.0, *, pid: int = 7, **facts: Any) -> AgentEvent:
    """Return an event of the agent at so many seconds from SIGTERM."""
    return AgentEvent(at=SIGNAL + at, pid=pid, kind=kind, facts=facts)


def lived(*phases: str) -> list[AgentEvent]:
    """Return the events of a lifespan that came so far."""
    return [event("lifespan", -9.0 if "start" in phase else 0.5, phase=phase) for phase in phases]


WHOLE_LIFE = lived("starting", "started", "stopping", "stopped")


def record(
    requests: Sequence[Request] = (),
    *,
    name: str = "drain",
    events: Sequence[AgentEvent] = WHOLE_LIFE,
    gone: float = 1.0,
    is_killed: bool = False,
    marks: Mapping[str, float] | None = None,
    facts: Mapping[str, Any] | None = None,
    problem: str = "",
) -> AttackRecord:
    """Return what an attack saw; the server was gone `gone` seconds after SIGTERM."""
    return AttackRecord(
        name=name,
        marks={"signal": SIGNAL} if marks is None else marks,
        requests=tuple(requests),
        events=tuple(events),
        facts=facts or {},
        exit=Exit(at=SIGNAL + gone, code=None if is_killed else 0, is_killed=is_killed),
        problem=problem,
    )


def recording(
    *records: AttackRecord,
    routes: Sequence[Route] = (),
    lag: float = 2.0,
    server: str = "uvicorn",
    has_agent: bool = True,
) -> Recording:
    """Return a recording of these attacks."""
    return Recording(
        app="m:app",
        server=server,
        stormproof="0",
        started="",
        machine={},
        profile={"name": "docker", "grace": GRACE, "lag": lag},
        has_agent=has_agent,
        routes=tuple(routes) or (Route(id="GET /a", method="GET", path="/a", url="/a"),),
        attacks=records,
    )
