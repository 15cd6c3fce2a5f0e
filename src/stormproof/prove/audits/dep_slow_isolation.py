"""`dep-slow-isolation`: routes that do not use the slow dependency keep their latency."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable

from stormproof.prove._audit import Audit, Fix, Judgement, Series, not_applicable
from stormproof.prove._recording import Request

from ._dependency import ATTACKS, Faced, death, first_lines, judged_with

FACTOR = 5.0
FLOOR = 0.25
"""Seconds: below this nobody counts factors."""

_LEAST = 4
"""Requests of a route, below which nothing is said of it."""


def _by_route(requests: Iterable[Request]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for request in requests:
        seconds = request.latency if request.ended == "complete" else math.inf
        found[request.route].append(math.inf if seconds is None else seconds)
    return found


def _judge(found: list[Faced]) -> Judgement:
    if died := death(found, {"slow": "was slow"}):
        return died
    worst: tuple[float, str, str, float, float] | None = None
    slowed: list[str] = []
    held = 0
    series: list[Series] = []
    for each in found:
        before = _by_route(each.group("before-others"))
        for route, seconds in _by_route(each.group("slow-others")).items():
            if len(seconds) < _LEAST:
                continue
            held += 1
            usual = statistics.median(before[route]) if before.get(route) else 0.0
            limit = max(FACTOR * usual, FLOOR)
            typical = statistics.median(seconds)  # noise delays some, a fault most
            if worst is None or typical / limit > worst[0]:
                worst = (typical / limit, each.name, route, typical, usual)
            if typical > limit:
                slowed.append(
                    f"{route}: {_said(typical)} while {each.name} was slow, {usual:.3f} s before"
                )
        series.append(_series(each))
    if worst is None:
        return not_applicable("every route that was asked uses the dependency")
    _, name, route, typical, usual = worst
    return Judgement(
        outcome="fail" if slowed else "pass",
        display=(
            f"with {name} slow, {len(slowed)} of {held} routes that do not use it were slow as "
            f"well: {route} took {_said(typical)}, {usual:.3f} s before"
            if slowed
            else f"{held} of {held} routes that do not use the slow dependency kept their time: "
            f"{route} took {typical:.3f} s, {usual:.3f} s before"
        ),
        value=None if math.isinf(typical) else typical,
        unit="s",
        limit=max(FACTOR * usual, FLOOR),
        losses=first_lines(slowed),
        series=tuple(series),
        routes=tuple(dict.fromkeys(line.partition(": ")[0] for line in slowed)),
    )


def _said(seconds: float) -> str:
    return "longer than the client waited" if math.isinf(seconds) else f"{seconds:.2f} s"


def _series(each: Faced) -> Series:
    points = tuple(
        (request.intended_at, request.latency)
        for request in each.group("before-others", "slow-others")
        if request.latency is not None
    )
    marks = {
        name: at for name in ("slow-begun", "slow-ended") if (at := each.mark(name)) is not None
    }
    return Series(
        title=f"Latency of what does not use {each.name}", unit="s", points=points, marks=marks
    )


AUDIT = Audit(
    id="dep-slow-isolation",
    is_must=True,
    passing="One slow dependency leaves the routes that do not use it alone",
    failing="One slow dependency makes routes slow that have nothing to do with it",
    why=(
        "A dependency that takes a second instead of five milliseconds is the usual trouble, "
        "more usual than one that is down. Its own routes are slow then, and that cannot be "
        "helped. But when they hold what all share, the 40 threads of `def` endpoints, the event "
        "loop, one pool or one lock, the rest of the service stops too, and one team's incident "
        "becomes everybody's."
    ),
    fixes=(
        Fix(
            title="Wait without holding a thread, and bound how many wait",
            before=(
                "@app.get('/quote')\n"
                "def quote() -> dict:  # each waiting call holds one of 40 threads\n"
                "    return httpx2.get(QUOTES).json()\n"
            ),
            after=(
                "few = asyncio.Semaphore(20)\n\n\n"
                "@app.get('/quote')\n"
                "async def quote() -> dict:\n"
                "    if few.locked():\n"
                "        raise HTTPException(503, headers={'Retry-After': '1'})\n"
                "    async with few:\n"
                "        return (await client.get(QUOTES, timeout=2.0)).json()\n"
            ),
        ),
        Fix(
            title="With stormproof: an upstream with a total timeout, behind a limiter",
            before="client = httpx2.AsyncClient()\n",
            after=(
                "upstream = stormproof.Upstream(timeout=2.0)\n"
                "quotes = stormproof.Limiter(20, name='quotes')\n\n\n"
                "@app.get('/quote')\n"
                "async def quote() -> dict:\n"
                "    async with quotes.slot():  # full: 503 at once\n"
                "        return (await upstream.get(QUOTES)).json()\n"
            ),
        ),
    ),
    attacks=ATTACKS,
    judge=judged_with(_judge),
    is_timed=True,
    weight=5,
)
