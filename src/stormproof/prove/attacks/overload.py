"""The overload: 2.5 times what the narrowest route can do, from clients that give up after 1 s."""

from collections.abc import Iterable
from dataclasses import asdict, replace

from stormproof.prove._attack import Attack, Scene
from stormproof.prove._overload import (
    BEGUN,
    ENDED,
    FACT,
    NO_USE,
    NO_WAY,
    PATIENCE,
    Overload,
    p90,
    recovered_after,
    recovery_limit,
)
from stormproof.prove._recording import Route
from stormproof.prove.load import LoadReport, Shot, open_loop

from ._busy import Busy, server_pids
from ._capacity import Capacity, capacity_of
from ._lag import watched_lag

_TIMES = 2.5
_CANDIDATES = 4
_SLOWEST = 0.45 * PATIENCE
"""Seconds a route may take without load: above it, clients give up whatever the app does."""

_MOST_RATE = 4000.0
"""Requests per second that are worth trying to send."""

_CONNECTIONS = 900
"""Below the 1,024 descriptors that a server has by default on many systems."""

_AFTERWARDS = 0.6
"""Of the capacity, asked for before and after the overload."""

_TOO_LOW = 1.5
"""So many times its measured capacity an app must answer before that was measured wrongly."""

_WATCHED = 6.0
"""Seconds after the overload in which the app may come back: 5, and time to see it."""


async def _run(scene: Scene) -> None:
    routes = _candidates(scene.of_kind("plain"))
    if not routes:
        scene.facts[NO_USE] = f"no route ends within {_SLOWEST:.2f} s, so none can be overloaded"
        return
    measured: list[Capacity] = []
    for route in routes:
        measured.append(await capacity_of(scene, route, seconds=max(0.4, 0.7 * scene.scale)))
        if _is_narrow(measured[-1]):
            break
    scene.facts["capacities"] = {
        each.route.id: {"rate": each.rate, "callers": each.callers, **asdict(each.use)}
        for each in measured
    }
    target = _narrowest(measured)
    if target is None:
        scene.facts[NO_WAY] = _no_way(min(measured, key=lambda each: each.rate))
        return
    await _overload(scene, target)
    answered = _answered(scene)
    if answered > _TOO_LOW * target.rate and _TIMES * answered <= _MOST_RATE:
        # It did more than it "could": something else had the machine while it was measured.
        rows = scene.ledger.rows
        rows[:] = [row for row in rows if row.group not in ("before", "overload", "after")]
        await _overload(scene, replace(target, rate=answered))


def _answered(scene: Scene) -> float:
    """Return the good answers per second during the overload."""
    begun_at, ended_at = scene.marks[BEGUN], scene.marks[ENDED]
    good = [row for row in scene.ledger.rows if row.group == "overload" and row.is_good]
    return sum((row.last_byte_at or 0.0) <= ended_at for row in good) / (ended_at - begun_at)


def _candidates(routes: Iterable[Route]) -> list[Route]:
    """Return the slowest first: the narrow ones are among them, since slots over time is rate."""
    able = [route for route in routes if route.seconds <= _SLOWEST]
    able.sort(key=lambda route: (route.seconds, "pool" in route.uses), reverse=True)
    return able[:_CANDIDATES]


def _is_able(capacity: Capacity) -> bool:
    can_send = _TIMES * capacity.rate <= _MOST_RATE and not capacity.is_generator_busy
    return can_send and capacity.rate > 0 and (capacity.is_filled or capacity.limited_by == "cpu")


def _is_narrow(capacity: Capacity) -> bool:
    return _is_able(capacity) and capacity.limited_by == "waiting"


def _narrowest(measured: Iterable[Capacity]) -> Capacity | None:
    """Return the narrowest that callers wait for, or else the narrowest of all."""
    able = [capacity for capacity in measured if _is_able(capacity)]
    waiting = [capacity for capacity in able if capacity.limited_by == "waiting"]
    return min(waiting or able, key=lambda capacity: capacity.rate, default=None)


def _no_way(capacity: Capacity) -> str:
    words = f"{capacity.route.id} answered {capacity.rate:,.0f}/s to {capacity.callers} callers"
    if capacity.rate == 0:
        return f"{words}: there is nothing to multiply"
    if capacity.is_generator_busy or _TIMES * capacity.rate > _MOST_RATE:
        return f"{words}: {_TIMES} times that is more than the load generator sends from here"
    return f"{words}, and more callers would have had more"


async def _overload(scene: Scene, target: Capacity) -> None:
    """Ask at 0.6 times the capacity, at 2.5 times, and at 0.6 times again until it is quick."""
    seconds = min(3.0, max(1.0, 12 / (_AFTERWARDS * target.rate)))
    await _asked(scene, target, _AFTERWARDS, seconds=seconds, group="before")
    before = p90([row.latency or 0.0 for row in scene.ledger.rows if row.group == "before"])
    begun_at = scene.mark(BEGUN)
    seconds = max(3.5, 5.0 * scene.scale)
    server = Busy(server_pids(scene))
    with watched_lag() as lag:
        report = await _asked(scene, target, _TIMES, seconds=seconds, group="overload")
    use = server.use()
    ended_at = scene.marks[ENDED] = begun_at + seconds
    overload = Overload(
        route=target.route.id,
        capacity=target.rate,
        callers=target.callers,
        limited_by=target.limited_by,
        busy=target.use.busy,
        offered=report.wanted_rate,
        sent=report.sent_rate,
        late=lag.p99,
        starved=0.0 if use is None else use.starved,
        before=before,
    )
    scene.facts[FACT] = asdict(overload)
    await _until_recovered(scene, target, ended_at, recovery_limit(before))


async def _until_recovered(scene: Scene, target: Capacity, ended_at: float, limit: float) -> None:
    with watched_lag() as lag:
        while scene.ledger.now() < ended_at + _WATCHED:
            await _asked(scene, target, _AFTERWARDS, seconds=1.2, group="after")
            rows = [row for row in scene.ledger.rows if row.group == "after"]
            if recovered_after(rows, ended_at=ended_at, limit=limit) is not None:
                break
    scene.facts["late-after"] = lag.p99


async def _asked(
    scene: Scene, target: Capacity, times: float, *, seconds: float, group: str
) -> LoadReport:
    return await open_loop(
        scene.port,
        [Shot.of(target.route)],
        rate=times * target.rate,
        seconds=seconds,
        timeout=PATIENCE,
        ledger=scene.ledger,
        group=group,
        connections=_CONNECTIONS,
    )


ATTACK = Attack(
    name="overload",
    title="2.5 times what it can do, from clients that give up after 1 s",
    seconds=15.0,
    run=_run,
)
