"""`health-truth`: without its database the service says so, and is not killed for it."""

from collections.abc import Iterable, Mapping

from stormproof.prove._audit import Audit, Fix, Judgement, Series, not_applicable, not_measured
from stormproof.prove._recording import AttackRecord, Recording, Request

from ._dependency import first_lines

WITHIN = 5.0
"""Seconds after which readiness must have noticed; also how soon it must be back."""

QUICK = 1.0
"""Seconds in which a probe must answer: the platforms' own default."""

SITUATIONS: Mapping[str, str] = {
    "pool": "with the connection pool exhausted",
    "down": "with the database down",
}


def _judge(recording: Recording) -> Judgement:
    probes = {route.health for route in recording.routes if route.health}
    if not probes:
        return not_applicable("no health route was found")
    record = recording.attack("health")
    if record is None or record.problem:
        why = "was not played" if record is None else f"could not be run: {record.problem}"
        return not_measured(f"the attack on the health routes {why}")
    played = [name for name in SITUATIONS if record.marks.get(f"{name}-begun") is not None]
    if not played:
        return not_applicable(
            "the app has no SQLAlchemy pool to exhaust and no database that could be taken down"
        )
    faults: list[str] = []
    for name in played:
        faults += _faults(record, name, has_ready=bool(probes & {"ready", "both"}))
    if not probes & {"ready", "both"}:
        faults.insert(0, "there is no readiness route, so traffic goes on to a service without it")
    series = _series(record)
    if faults:
        return Judgement(
            outcome="fail",
            display=faults[0],
            value=float(len(faults)),
            unit="faults",
            limit=0.0,
            losses=first_lines(faults),
            series=series,
            routes=tuple(route.id for route in recording.routes if route.health),
        )
    soon = max(_turned_after(record, name) or 0.0 for name in played)
    words = " and ".join(SITUATIONS[name] for name in played)
    return Judgement(
        outcome="pass",
        display=f"{words}, liveness stayed 200 and readiness turned 503 within {soon:.1f} s",
        value=soon,
        unit="s",
        limit=WITHIN,
        series=series,
    )


def _faults(record: AttackRecord, name: str, *, has_ready: bool) -> list[str]:
    words = SITUATIONS[name]
    found = []
    for request in record.of_group(f"live:{name}"):
        if request.ended == "complete" and not 200 <= request.status < 300:
            found.append(f"{words}, liveness ({request.route}) {_said(request)}: a restart follows")
            break
    for role, group in (("liveness", "live"), ("readiness", "ready")):
        probes = record.of_group(f"{group}:{name}")
        slow = [request for request in probes if _is_slow(request)]
        if 2 * len(slow) > len(probes):  # a busy machine delays one, an empty pool all
            found.append(
                f"{words}, {role} ({slow[0].route}) {_said(slow[0])}: a probe waits {QUICK:g} s"
            )
    if not has_ready:
        return found
    turned = _turned_after(record, name)
    asked = record.of_group(f"ready:{name}")
    if turned is None and asked:
        found.append(
            f"{words}, readiness ({asked[0].route}) still said {asked[-1].status} after "
            f"{asked[-1].intended_at - record.marks[f'{name}-begun']:.1f} s: traffic goes on to it"
        )
    back = record.of_group(f"ready-back:{name}")
    if turned is not None and back and not back[-1].is_good:
        found.append(
            f"{WITHIN:g} s after the database was back, readiness ({back[-1].route}) "
            f"{_said(back[-1])}"
        )
    return found


def _turned_after(record: AttackRecord, name: str) -> float | None:
    """Return how long after the fault began readiness was first 503 (any 5xx answer)."""
    begun_at = record.marks[f"{name}-begun"]
    for request in record.of_group(f"ready:{name}"):
        if request.ended == "complete" and request.status >= 500:
            return (request.last_byte_at or request.intended_at) - begun_at
    return None


def _is_slow(request: Request) -> bool:
    latency = request.latency
    return request.ended != "complete" or latency is None or latency > QUICK


def _said(request: Request) -> str:
    if request.ended != "complete":
        return "did not answer"
    return f"answered {request.status} after {request.latency or 0.0:.2f} s"


def _series(record: AttackRecord) -> tuple[Series, ...]:
    found = []
    for role, words in (("live", "liveness"), ("ready", "readiness")):
        groups = [f"{group}:{name}" for name in SITUATIONS for group in (role, f"{role}-back")]
        points = _points(record.of_group(*groups))
        if points:
            found.append(
                Series(title=f"Status of {words}", unit="", points=points, marks=record.marks)
            )
    return tuple(found)


def _points(requests: Iterable[Request]) -> tuple[tuple[float, float], ...]:
    return tuple((request.intended_at, float(request.status)) for request in requests)


AUDIT = Audit(
    id="health-truth",
    is_must=True,
    passing="Without its database the service is alive and not ready, and says so at once",
    failing="The health routes do not tell the truth about the database",
    why=(
        "A readiness route that always says 200 keeps traffic flowing to an instance that can "
        "only answer errors. A liveness route that asks the database turns a short outage into "
        "a long one: the platform restarts every instance, all of them connect anew at once, "
        "and the work in hand is lost. A health route that hangs behind the same empty pool "
        "does both, at a time of its own choosing."
    ),
    fixes=(
        Fix(
            title="Two routes: one that asks nothing, one that asks with a short limit",
            before=(
                "@app.get('/health')\n"
                "async def health() -> dict[str, str]:\n"
                "    return {'status': 'ok'}\n"
            ),
            after=(
                "@app.get('/livez')\n"
                "async def livez() -> dict[str, str]:\n"
                "    return {'status': 'ok'}\n\n\n"
                "@app.get('/readyz')\n"
                "async def readyz() -> dict[str, str]:\n"
                "    try:\n"
                "        async with asyncio.timeout(0.5), engine.connect() as connection:\n"
                "            await connection.execute(text('SELECT 1'))\n"
                "    except Exception as error:\n"
                "        raise HTTPException(503, 'no database') from error\n"
                "    return {'status': 'ok'}\n"
            ),
        ),
        Fix(
            title="With stormproof: both routes are there, and Database has its say in one",
            before="app = FastAPI()\n",
            after=(
                "database = stormproof.Database(url)\n"
                "stormproof.install(app, database)  # /livez, /readyz, /startupz\n"
            ),
        ),
    ),
    attacks=("health",),
    judge=_judge,
    weight=4,
)
