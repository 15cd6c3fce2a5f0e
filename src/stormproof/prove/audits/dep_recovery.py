"""`dep-recovery`: when the dependency is back, requests succeed again, without a restart."""

from collections import defaultdict

from stormproof.prove._audit import Audit, Fix, Judgement
from stormproof.prove._recording import Request

from ._dependency import ATTACKS, Faced, first_lines, judged_with, told

LIMIT = 5.0
"""Seconds from the dependency's return to the last request that failed for its absence."""

FAULTS = {"down": "was refused", "blackhole": "was silent"}


def _judge(found: list[Faced]) -> Judgement:
    lost: list[tuple[str, Request]] = []
    longest, routes, watched = 0.0, [], 0
    for each in found:
        for fault, words in FAULTS.items():
            back_at = each.mark(f"{fault}-ended")
            if back_at is None:
                continue
            by_route: dict[str, list[Request]] = defaultdict(list)
            for request in each.group(f"back-{fault}"):
                by_route[request.route].append(request)
            for route, requests in by_route.items():
                watched += 1
                seconds = _recovered_after(requests, back_at)
                if seconds is None or seconds > LIMIT:
                    routes.append(route)
                    lost.append((f"{each.name} {words} and is back", requests[-1]))
                else:
                    longest = max(longest, seconds)
    if not watched:
        return Judgement(outcome="not-measured", display="no request was sent after a fault")
    if not lost:
        return Judgement(
            outcome="pass",
            display=f"{watched} of {watched} times a route worked again, {longest:.1f} s after "
            "its dependency was back at the latest",
            value=longest,
            unit="s",
            limit=LIMIT,
        )
    why, first = lost[0]
    return Judgement(
        outcome="fail",
        display=f"{len(lost)} of {watched} times a route had not come back {LIMIT:g} s after its "
        f"dependency had: {why}, but {told(first)}",
        value=float(len(lost)),
        unit="routes",
        limit=0.0,
        losses=first_lines(f"{why}: {told(request)}" for why, request in lost),
        routes=tuple(dict.fromkeys(routes)),
    )


def _recovered_after(requests: list[Request], back_at: float) -> float | None:
    """Return how long after the return the last bad request was sent; None: the last is bad."""
    requests = sorted(requests, key=lambda request: request.intended_at)
    if not requests[-1].is_good:
        return None
    bad = [request.intended_at for request in requests if not request.is_good]
    return max(0.0, bad[-1] - back_at) if bad else 0.0


AUDIT = Audit(
    id="dep-recovery",
    is_must=True,
    passing="When a dependency is back, requests succeed again by themselves",
    failing="When a dependency is back, requests go on failing until somebody restarts the service",
    why=(
        "Databases fail over and services are deployed, usually at night. A service that holds "
        "on to a dead connection, or whose pool stays full of them, answers errors long after "
        "the trouble is over: the incident lasts until a person restarts it."
    ),
    fixes=(
        Fix(
            title="Use a pool that tests its connections, not one connection for ever",
            before=(
                "app.state.db = await psycopg.AsyncConnection.connect(url)  # dies once\n"
                "engine = create_async_engine(url)  # hands out connections that have died\n"
            ),
            after="engine = create_async_engine(url, pool_pre_ping=True, pool_recycle=300)\n",
        ),
        Fix(
            title="With stormproof: Database tests a connection when it is taken",
            before="engine = create_async_engine(url)\n",
            after="database = stormproof.Database(url)\nstormproof.install(app, database)\n",
        ),
    ),
    attacks=ATTACKS,
    judge=judged_with(_judge),
    weight=4,
)
