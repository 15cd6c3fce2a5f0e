"""`upstream-reuse`: connections to a dependency are kept, not opened for each request."""

from stormproof.prove._audit import Audit, Fix, Judgement, not_measured

from ._dependency import ATTACKS, Faced, first_lines, judged_with

LIMIT = 0.2
"""Connections opened for each request, once the app is warm."""

_LEAST = 5
_FILLING = 2
"""Connections that a pool may still open after the warm-up: one for each of the two callers."""


def _judge(found: list[Faced]) -> Judgement:
    worst: tuple[float, str, str] | None = None
    many: list[str] = []
    routes: list[str] = []
    for each in found:
        for route, counted in each.noted.get("reuse", {}).items():
            if counted["requests"] < _LEAST:
                continue
            share = counted["opened"] / counted["requests"]
            line = (
                f"{route} opened {counted['opened']} connections to {each.name} "
                f"for {counted['requests']} requests"
            )
            if worst is None or share > worst[0]:
                worst = (share, line, route)
            if counted["opened"] - _FILLING > LIMIT * counted["requests"]:
                many.append(line)
                routes.append(route)
    if worst is None:
        return not_measured(f"fewer than {_LEAST} requests used a dependency")
    return Judgement(
        outcome="fail" if many else "pass",
        display=worst[1],
        value=worst[0],
        unit="connections per request",
        limit=LIMIT,
        losses=first_lines(many),
        routes=tuple(routes),
    )


AUDIT = Audit(
    id="upstream-reuse",
    is_must=False,
    passing="Connections to dependencies are kept and used again",
    failing="A new connection to a dependency is opened for each request",
    why=(
        "Each new connection costs a round trip, two or three more with TLS, and on this side "
        "the building of a client: an httpx2 client reads all root certificates, 33 to 45 ms on "
        "the event loop. Under load the ports run out, and a PostgreSQL server starts a process "
        "for each."
    ),
    fixes=(
        Fix(
            title="One client for the life of the app",
            before=(
                "@app.get('/quote')\n"
                "async def quote() -> dict:\n"
                "    async with httpx2.AsyncClient() as client:\n"
                "        return (await client.get(QUOTES)).json()\n"
            ),
            after=(
                "@asynccontextmanager\n"
                "async def lifespan(app: FastAPI):\n"
                "    async with httpx2.AsyncClient(timeout=2.0) as client:\n"
                "        yield {'client': client}\n\n\n"
                "@app.get('/quote')\n"
                "async def quote(request: Request) -> dict:\n"
                "    return (await request.state.client.get(QUOTES)).json()\n"
            ),
        ),
        Fix(
            title="With stormproof: Upstream is a part of the app",
            before="async with httpx2.AsyncClient() as client: ...\n",
            after="upstream = stormproof.Upstream()\nstormproof.install(app, upstream)\n",
        ),
    ),
    attacks=ATTACKS,
    judge=judged_with(_judge),
    weight=2,
)
