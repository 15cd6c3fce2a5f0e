"""Health: the pool is exhausted, then the database is down, and the probes are asked."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from stormproof.prove._attack import Attack, Grounds, Scene
from stormproof.prove._recording import Route
from stormproof.prove.faults import Down, FaultProxy
from stormproof.prove.load import Shot, ask, closed_loop

_DATABASES = ("postgres", "mysql", "mariadb", "mssql", "oracle", "cockroachdb", "mongodb")

_LOOK = 5.0
"""Seconds in which readiness has to notice; past it the platform has long sent more."""

_EVERY = 0.2
_PATIENCE = 2.0
"""Seconds a probe is waited for; the audit wants it in one."""

_NOTICED = 2
"""Answers in a row after which nothing more is to be seen."""


async def _run(scene: Scene) -> None:
    if scene.agent is not None:
        taken = await scene.agent.exhaust_pools()
        try:
            if taken:
                await _watch(scene, "pool")
        finally:
            await scene.agent.release_pools()
        if taken:
            await _watch_return(scene, "pool")
    databases = [proxy for proxy in scene.proxies.values() if _is_database(proxy)]
    if databases and _users(scene):
        for proxy in databases:
            proxy.set(Down())
        try:
            await _watch(scene, "down")
        finally:
            for proxy in databases:
                proxy.clear()
        await _watch_return(scene, "down")


def _is_database(proxy: FaultProxy) -> bool:
    return urlsplit(proxy.url).scheme.startswith(_DATABASES)


def _users(scene: Scene) -> tuple[Route, ...]:
    """Return the routes that use the database: what a probe may learn from."""
    names = {f"dependency:{name}" for name, proxy in scene.proxies.items() if _is_database(proxy)}
    return tuple(
        route for route in scene.of_kind("plain") if "pool" in route.uses or names & {*route.uses}
    )


def _probes(scene: Scene, *roles: str) -> tuple[Route, ...]:
    return tuple(route for route in scene.of_kind("health") if route.health in roles)


async def _watch(scene: Scene, name: str) -> None:
    """Ask liveness and readiness under a trickle of requests until readiness has noticed."""
    scene.mark(f"{name}-begun")
    noticed = asyncio.Event()
    trickle = asyncio.create_task(_trickle(scene, noticed))
    live = asyncio.create_task(_ask_live(scene, name, noticed))
    try:
        await _ask_ready(scene, name)
        noticed.set()
        await live
    finally:
        for task in (trickle, live):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(trickle, live, return_exceptions=True)
        scene.mark(f"{name}-ended")


async def _trickle(scene: Scene, until: asyncio.Event) -> None:
    shots: Sequence[Shot] = [Shot.of(route) for route in _users(scene)]
    if shots:
        await closed_loop(
            scene.port,
            shots,
            callers=2,
            seconds=_LOOK + 1,
            timeout=1.0,
            ledger=scene.ledger.aside(),
            group="trickle",
            until=until,
            pause=0.2,
        )


async def _ask_live(scene: Scene, name: str, until: asyncio.Event) -> None:
    for route in _probes(scene, "live")[:1]:
        await _probe(scene, route, f"live:{name}")
        while not until.is_set():
            await asyncio.sleep(_EVERY)
            await _probe(scene, route, f"live:{name}")


async def _ask_ready(scene: Scene, name: str) -> None:
    probes = _probes(scene, "ready", "both")[:1]
    ends_at = scene.ledger.now() + (_LOOK if probes else 1.0)
    seen = 0
    while seen < _NOTICED and scene.ledger.now() < ends_at:
        for route in probes:
            status = await _probe(scene, route, f"ready:{name}")
            seen = seen + 1 if status >= 500 else 0
        await asyncio.sleep(_EVERY)


async def _watch_return(scene: Scene, name: str) -> None:
    """Ask readiness until it is good again."""
    ends_at = scene.ledger.now() + _LOOK
    for route in _probes(scene, "ready", "both")[:1]:
        while scene.ledger.now() < ends_at:
            if 200 <= await _probe(scene, route, f"ready-back:{name}") < 300:
                return
            await asyncio.sleep(_EVERY)


async def _probe(scene: Scene, route: Route, group: str) -> int:
    row = await ask(scene.port, Shot.of(route), timeout=_PATIENCE, ledger=scene.ledger, group=group)
    return row.status if row.ended == "complete" else 0


def _fits(grounds: Grounds) -> str:
    if grounds.of_kind("health"):
        return ""
    return (
        "no health route was found (/livez, /readyz, /healthz, /health …): name yours with "
        "--live and --ready, or get both from stormproof.install(app)"
    )


ATTACK = Attack(
    name="health",
    title="no database connection, and the probes",
    seconds=5.0,
    run=_run,
    fits=_fits,
)
