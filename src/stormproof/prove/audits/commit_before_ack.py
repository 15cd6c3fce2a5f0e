"""`commit-before-ack`: work whose COMMIT failed is never answered as done."""

from stormproof.prove._audit import Audit, Fix, Judgement, not_applicable, not_measured
from stormproof.prove._recording import Recording

from ._dependency import first_lines, routes_of, told

_GROUP = "commit"


def _judge(recording: Recording) -> Judgement:
    record = recording.attack("commit")
    if record is None:
        return not_measured("the attack on the COMMIT was not played")
    if record.problem:
        return not_measured(f"the attack on the COMMIT could not be run: {record.problem}")
    requests = {request.id: request for request in record.of_group(_GROUP)}
    failed = {
        event.facts.get("id")
        for event in record.of_kind("commit-failed")
        if event.facts.get("wrote")
    }
    asked = [request for id, request in requests.items() if id in failed]
    if not asked:
        return not_applicable(
            f"none of {len(requests)} requests wrote through SQLAlchemy; name some that do in a "
            "scenario (--scenario FILE), or allow writes (--writes)"
        )
    lost = [request for request in asked if 200 <= request.status < 300]
    if not lost:
        statuses = sorted({request.status for request in asked})
        return Judgement(
            outcome="pass",
            display=f"{len(asked)} of {len(asked)} requests whose COMMIT failed were told so "
            f"({', '.join(map(str, statuses))})",
            value=0.0,
            unit="requests",
            limit=0.0,
            routes=routes_of(asked),
        )
    return Judgement(
        outcome="fail",
        display=f"{len(lost)} of {len(asked)} requests whose COMMIT failed were answered "
        f"{lost[0].status}: {', '.join(routes_of(lost)[:3])}",
        value=float(len(lost)),
        unit="requests",
        limit=0.0,
        losses=first_lines(f"{told(request)}; its COMMIT had failed" for request in lost),
        stack=_where(recording, lost[0].route),
        routes=routes_of(lost),
    )


def _where(recording: Recording, id: str) -> tuple[str, ...]:
    route = recording.route(id)
    return (route.where,) if route is not None and route.where else ()


AUDIT = Audit(
    id="commit-before-ack",
    is_must=True,
    passing="What was answered as done was committed before",
    failing="Requests are answered 2xx although their COMMIT failed",
    why=(
        "Since FastAPI 0.118 the code after `yield` in a dependency runs after the response was "
        "sent. A COMMIT that stands there can still fail, for a deferred constraint, a "
        "serialization conflict, a lost connection, and by then the client has its 200 or 201. "
        "The row is not there, and nobody will ever know: no error reaches the client, and "
        "nothing is repeated."
    ),
    fixes=(
        Fix(
            title="End the dependency before the response is sent",
            before=(
                "async def get_db():\n"
                "    async with AsyncSession(engine) as session:\n"
                "        yield session\n"
                "        await session.commit()  # after the response\n\n\n"
                "@app.post('/items')\n"
                "async def create(item: ItemIn, db=Depends(get_db)): ...\n"
            ),
            after=(
                "@app.post('/items')\n"
                "async def create(item: ItemIn, db=Depends(get_db, scope='function')): ...\n"
                "# or commit in the endpoint, before it returns: await db.commit()\n"
            ),
        ),
        Fix(
            title="With stormproof: the session commits before the response, or raises",
            before="Session = Annotated[AsyncSession, Depends(get_db)]\n",
            after=(
                "database = stormproof.Database(url)\n"
                "Session = Annotated[AsyncSession, stormproof.session(database)]\n"
            ),
        ),
    ),
    attacks=("commit",),
    judge=_judge,
    needs_agent=True,
    weight=5,
)
