"""`disconnect-cancels`: work for a client who has left is stopped."""

from collections import defaultdict
from collections.abc import Iterable

from stormproof.prove._audit import Audit, Fix, Judgement, not_applicable, not_measured
from stormproof.prove._recording import AttackRecord, Recording, Request, Route

from ._served import handled

LIMIT = 0.5
"""Seconds that work may go on after its client has left."""

_SLOW = 0.8
"""Seconds from which a route is slow enough that leaving it leaves work to be stopped."""

_MOST = 0.5
"""Share of a route's leavings that may go on: some are left just before the end."""


def _judge(recording: Recording) -> Judgement:
    record = recording.attack("clients")
    if record is None or record.problem:
        return not_measured("no client left: the attack clients was not played")
    left = _left(recording, record)
    if not left:
        return not_applicable(
            f"no route that only reads takes {_SLOW:.1f} s or streams: there is nothing to stop"
        )
    ran_on = {route: _ran_on(record, rows) for route, rows in left.items()}
    bad = {route: times for route, times in ran_on.items() if len(times) > _MOST * len(left[route])}
    longest = max((max(times) for times in ran_on.values() if times), default=0.0)
    count = sum(len(rows) for rows in left.values())
    losses = [
        f"{route}: {len(times)} of {len(left[route])} worked on, for up to {max(times):.1f} s"
        for route, times in bad.items()
    ]
    stopped = count - sum(map(len, ran_on.values()))
    return Judgement(
        outcome="fail" if bad else "pass",
        display=losses[0] + " after their client had left"
        if losses
        else f"{stopped} of {count} handlers ended within {LIMIT} s of their client's leaving, on "
        f"{len(left)} routes",
        value=longest,
        unit="s",
        limit=LIMIT,
        losses=tuple(losses[:5]),
        routes=tuple(bad),
    )


def _left(recording: Recording, record: AttackRecord) -> dict[str, list[Request]]:
    """Return, by route, the requests that were left while there was work to be stopped."""
    routes = {route.id: route for route in recording.routes}
    left: dict[str, list[Request]] = defaultdict(list)
    for request in record.of_group("left"):
        route = routes.get(request.route)
        if request.ended == "left" and request.sent_at and route and _is_to_stop(route):
            left[route.id].append(request)
    return left


def _is_to_stop(route: Route) -> bool:
    """Whether leaving leaves work that nobody needs: what writes may well finish it."""
    if route.method not in ("GET", "HEAD") or route.is_promise:
        return False
    return route.kind == "endless" or route.seconds >= _SLOW


def _ran_on(record: AttackRecord, rows: Iterable[Request]) -> list[float]:
    """Return for how long the handlers worked on that did so for more than the limit."""
    ends = handled(record)
    times = []
    for request in rows:
        since = request.last_byte_at or request.intended_at
        until = record.marks.get("over", record.ended_at)
        if (event := ends.get(request.id)) is not None:
            # A handler may begin after the leaving, where the loop had no time for it before.
            since, until = max(since, event.facts["began"]), event.facts["ended"]
        if until - since > LIMIT:
            times.append(until - since)
    return times


AUDIT = Audit(
    id="disconnect-cancels",
    is_must=False,
    passing="Work for a client who has left is stopped",
    failing="The app goes on working for clients who have left",
    why=(
        "Clients leave: a user closes the tab, a gateway gives up after its own time-out and "
        "asks again. A plain `async def` endpoint is never cancelled when that happens, on any "
        "server. Under overload most clients have left before their turn comes, so the service "
        "spends its capacity on answers that nobody reads, while those who wait leave as well."
    ),
    fixes=(
        Fix(
            title="Race the work against the client's leaving, with plain FastAPI",
            before=(
                "@app.get('/report')\n"
                "async def report() -> Report:\n"
                "    return await build_report()  # 20 s, whoever is still there\n"
            ),
            after=(
                "class StopWhenLeft:  # pure ASGI; app.add_middleware(StopWhenLeft)\n"
                "    async def __call__(self, scope, receive, send):\n"
                "        work = asyncio.create_task(self.app(scope, replay, send))\n"
                "        left = asyncio.create_task(until_disconnect(receive))\n"
                "        await asyncio.wait({work, left}, return_when=FIRST_COMPLETED)\n"
                "        ...  # docs/audits/disconnect-cancels.md has all of it\n"
            ),
        ),
        Fix(
            title="With stormproof: at least an end for all work, and streams that stop at once",
            before="app = FastAPI()\n",
            after=(
                "app.add_middleware(DeadlineMiddleware, default=5.0)  # nobody waits longer\n"
                "return SSEResponse(events())  # its source is closed when the client leaves\n"
            ),
        ),
    ),
    attacks=("clients",),
    judge=_judge,
    needs_agent=True,
    weight=2,
)
