"""`dep-down`: while a dependency refuses connections, each request gets an honest answer soon."""

from stormproof.prove._audit import Audit, Fix, Judgement
from stormproof.prove._recording import Request

from ._dependency import ATTACKS, Faced, death, first_lines, judged_with, routes_of, told

SOON = 3.0
"""Seconds: a refused connection is known at once; what takes longer is retries and time-outs."""

_HONEST = frozenset({502, 503, 504, 424, 429})


def _is_honest(request: Request) -> bool:
    latency = request.latency
    if latency is None or latency > SOON:
        return False
    if request.ended == "truncated":
        return True  # an answer under way has no other word for it than its missing end
    is_said = request.status in _HONEST or 200 <= request.status < 400
    return request.ended == "complete" and is_said


def _judge(found: list[Faced]) -> Judgement:
    if died := death(found, {"down": "was down", "refused": "hung up on each connection"}):
        return died
    asked: list[Request] = []
    wrong: list[tuple[str, Request]] = []
    for each in found:
        requests = each.group("down")
        asked += requests
        wrong += [(each.name, request) for request in requests if not _is_honest(request)]
    if not asked:
        return Judgement(outcome="not-measured", display="no request was sent while one was down")
    if not wrong:
        statuses = sorted({request.status for request in asked})
        return Judgement(
            outcome="pass",
            display=f"{len(asked)} of {len(asked)} requests were answered honestly within "
            f"{SOON:g} s while their dependency was down ({', '.join(map(str, statuses))})",
            value=float(len(asked)),
            unit="requests",
        )
    name, first = wrong[0]
    return Judgement(
        outcome="fail",
        display=f"with {name} down, {len(wrong)} of {len(asked)} requests got no honest answer "
        f"within {SOON:g} s: {told(first)}",
        value=float(len(wrong)),
        unit="requests",
        limit=0.0,
        losses=first_lines(f"{name} down: {told(request)}" for name, request in wrong),
        routes=routes_of(request for _, request in wrong),
    )


AUDIT = Audit(
    id="dep-down",
    is_must=True,
    passing="When a dependency refuses connections, every request still gets an honest answer",
    failing="When a dependency refuses connections, requests get a 500, hang, or get no answer",
    why=(
        "A database that restarts or a service that is being deployed refuses connections for "
        "some seconds. Whoever asks then must be told 'not now' (503, or 502 for an upstream), "
        "which clients, load balancers and job queues know how to repeat. A 500 says 'this is a "
        "bug, do not repeat it': it wakes somebody up and the work is given up. A hang holds the "
        "caller's own connections until the caller is down as well."
    ),
    fixes=(
        Fix(
            title="Answer 503 for the driver's own error, once for the whole app",
            before=(
                "@app.get('/orders')\n"
                "async def orders() -> list[Order]:\n"
                "    return await pool.fetch('SELECT …')  # ConnectionRefusedError: 500\n"
            ),
            after=(
                "@app.exception_handler(OSError)  # sqlalchemy: also DBAPIError, InterfaceError\n"
                "@app.exception_handler(asyncpg.PostgresConnectionError)\n"
                "async def not_now(request: Request, error: Exception) -> Response:\n"
                "    return Response(status_code=503, headers={'Retry-After': '1'})\n"
            ),
        ),
        Fix(
            title="With stormproof: 503 with Retry-After from Database, 502 from Upstream",
            before="engine = create_async_engine(url)\n",
            after=(
                "database = stormproof.Database(url)\n"
                "upstream = stormproof.Upstream()\n"
                "stormproof.install(app, database, upstream)\n"
            ),
        ),
    ),
    attacks=ATTACKS,
    judge=judged_with(_judge),
    weight=4,
)
