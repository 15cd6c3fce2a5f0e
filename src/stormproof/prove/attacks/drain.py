"""The drain: SIGTERM under load, and what a load balancer that has not noticed goes on sending."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from stormproof.prove._attack import Attack, Grounds, Scene
from stormproof.prove._recording import Request, Route
from stormproof.prove.load import KeptConnection, Shot, ask, closed_loop

from ._departure import patience, send_signal, wait_for_end
from ._promises import Promises

_STEADY = 20
"""Callers on kept connections without a pause: so many requests are in flight at any time."""

_FRESH = 10
_FRESH_PAUSE = 0.05
_PROMISING = 6
_PROMISING_PAUSE = 0.3
"""Work that was acknowledged must be done before the end, so it is asked for sparingly."""

_SECONDS = 2.0
"""Load before the signal, at least; a slow route is in flight then."""

_SLOW = 0.1
_SLOW_WEIGHT = 3.0

_KEPT = 60
_TRIP = 0.02
"""Seconds from the client to the server: for so long a closing is not seen, and a request sent
meanwhile is lost. On loopback alone the reset race is there and too short to be met."""

_KEPT_LEAST = 0.5
_KEPT_MOST = 0.8
"""Seconds after SIGTERM in which kept connections are used: whoever is silent for longer may
find his connection closed."""

_LONG = 2
_LONG_ROUTES = 3


async def _run(scene: Scene) -> None:
    """Load, SIGTERM in its midst, more load for the platform's lag, then the wait for the end."""
    over = asyncio.Event()
    promises = Promises(scene, timeout=patience(scene))
    async with _kept_connections(scene) as idle:
        load = [asyncio.ensure_future(each) for each in _load(scene, over)]
        load.append(asyncio.ensure_future(promises.make(over)))
        try:
            await asyncio.sleep(max(_SECONDS * scene.scale, 1.0))
            scene.facts["trip"] = _TRIP
            signal = await send_signal(scene)
            load += [
                asyncio.ensure_future(_use(scene, connection, shot, signal + delay))
                for (connection, shot), delay in zip(idle, _delays(scene, len(idle)), strict=True)
            ]
            await asyncio.sleep(signal + scene.options.profile.lag - scene.ledger.now())
            over.set()
            await wait_for_end(scene, signal)
            await asyncio.gather(*load)  # the server has gone, so each has its answer or its end
            await promises.look_up()
        finally:
            for each in load:
                each.cancel()
            await asyncio.wait(load)


def _load(scene: Scene, over: asyncio.Event) -> Iterator[Coroutine[Any, Any, object]]:
    """Yield what goes on until `over`: kept and new connections, and what is acknowledged."""
    plain = [_weighted(route) for route in _reading(scene)]
    promising = [Shot.of(route) for route in _promising(scene) if not route.kept]
    for group, shots, callers, keeps, pause in (
        ("steady", plain, _STEADY, True, 0.0),
        ("fresh", plain, _FRESH, False, _FRESH_PAUSE),
        ("promise", promising, _PROMISING, True, _PROMISING_PAUSE),
    ):
        if shots:
            yield closed_loop(
                scene.port,
                shots,
                callers=callers,
                seconds=_SECONDS + patience(scene),
                timeout=patience(scene),
                ledger=scene.ledger,
                group=group,
                keep_alive=keeps,
                until=over,
                pause=pause,
            )
    for route in _longest(scene) * _LONG:
        shot = Shot.of(route)
        timeout = patience(scene)
        yield ask(scene.port, shot, timeout=timeout, ledger=scene.ledger, group="long")


def _reading(scene: Scene) -> list[Route]:
    """Return the plain routes that acknowledge nothing; if there is none, the probes."""
    plain = [route for route in scene.of_kind("plain") if not _is_promising(route)]
    return plain or list(scene.of_kind("health"))


def _promising(scene: Scene) -> list[Route]:
    return [route for route in scene.of_kind("plain") if _is_promising(route)]


def _is_promising(route: Route) -> bool:
    return route.is_promise or bool({"background", "task"} & set(route.uses))


def _longest(scene: Grounds) -> list[Route]:
    """Return the routes that sent nothing while they were learned: they may take minutes."""
    silent = [route for route in scene.of_kind("broken") if route.status == 0]
    return silent[:_LONG_ROUTES]


def _weighted(route: Route) -> Shot:
    shot = Shot.of(route)
    return replace(shot, weight=shot.weight * (_SLOW_WEIGHT if route.seconds >= _SLOW else 1.0))


@asynccontextmanager
async def _kept_connections(scene: Scene) -> AsyncIterator[list[tuple[KeptConnection, Shot]]]:
    """Open connections, ask the quickest route once on each, and keep them idle."""
    route = min(_reading(scene), key=lambda route: route.seconds, default=None)
    if route is None:
        yield []
        return
    shot = Shot.of(route)
    async with AsyncExitStack() as stack:
        idle = [
            await stack.enter_async_context(
                KeptConnection(scene.port, ledger=scene.ledger, group="kept")
            )
            for _ in range(_KEPT)
        ]
        await asyncio.gather(*(each.ask(shot, timeout=patience(scene)) for each in idle))
        yield [(each, shot) for each in idle if each.closed_at is None]


def _delays(scene: Scene, count: int) -> list[float]:
    """Return when after SIGTERM each kept connection is used: evenly, more at the beginning."""
    most = min(max(scene.options.profile.lag, _KEPT_LEAST), _KEPT_MOST)
    return [most * (number / max(count - 1, 1)) ** 1.5 for number in range(count)]


async def _use(scene: Scene, connection: KeptConnection, shot: Shot, at: float) -> None:
    """Send on a kept connection like a client that is `_TRIP` away.

    At `at` the client decides by what it can know then: what the server did `_TRIP` earlier. Its
    request arrives `_TRIP` later, whatever the server has done meanwhile.
    """
    await asyncio.sleep(at - scene.ledger.now())
    decided_at = scene.ledger.now()
    closed_at = connection.closed_at
    if closed_at is not None and closed_at <= decided_at - _TRIP:
        scene.ledger.rows.append(_unsent(scene, shot, decided_at, closed_at))
        return
    await asyncio.sleep(_TRIP)
    await connection.ask(shot, timeout=patience(scene))


def _unsent(scene: Scene, shot: Shot, at: float, closed_at: float) -> Request:
    return Request(
        id=scene.ledger.next_id(),
        route=shot.route,
        group="kept",
        intended_at=at,
        sent_at=None,
        first_byte_at=None,
        last_byte_at=closed_at,
        status=0,
        ended="unsent",
        is_reused=True,
        note="the server had closed the connection before",
    )


def _fits(grounds: Grounds) -> str:
    if grounds.of_kind("plain", "health") or _longest(grounds):
        return ""
    return "no route ends by itself"


ATTACK = Attack(
    name="drain",
    title="SIGTERM under load, and who comes after it",
    seconds=9.0,
    run=_run,
    fits=_fits,
)
