"""Clients that behave badly: they leave, they stop reading, they send half a request."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from stormproof.prove._attack import Attack, Scene
from stormproof.prove._learn import NOWHERE
from stormproof.prove._recording import Request, Route
from stormproof.prove.load import (
    Shot,
    ask,
    leave_early,
    read_slowly,
    send_half_body,
    send_half_head,
)

from ._guests import SLOW, body_routes, others

_CALLERS = 2
_PAUSE = 0.02
_CALM = 1.0
_MOST = 4.0
"""Seconds after which a part that asks many times goes on to the next: the app may be stuck."""

_BURST = 16

_LEAVE_QUICK = 12
_LEAVE_SLOW = 3
_LEAVE_AFTER = 0.15
_READ_STREAM = 0.4
_MOST_ROUTES = 8
_AFTER_LEAVING = 1.2
"""Seconds in which what was left behind must end; an audit allows half a second of them."""

_NOT_THERE = 60
_LARGE_BYTES = 256_000
_READERS = 8
_STALLED_ROUTES = 3
_STALL = 4.0
_SHORTEST_STALL = 2.5
_HALF_HEADS = 20
_HALF_BODIES = 10
_HALF = 2.0
_SHORTEST_HALF = 1.2


async def _run(scene: Scene) -> None:
    await _fill_pools(scene)
    async with others(scene, callers=_CALLERS, pause=_PAUSE):
        scene.mark("calm")
        sizes = await _calm(scene)
        scene.mark("leaving")
        await _leave(scene)
        scene.mark("left")
        await asyncio.gather(asyncio.sleep(_AFTER_LEAVING), _ask_for_nothing(scene))
        await _stall(scene, _long_answers(scene, sizes))
        await _send_halves(scene)
    if scene.agent is not None:
        await scene.agent.collect()
    scene.mark("over")


async def _fill_pools(scene: Scene) -> None:
    """Ask as many at once as ever will be: what pools keep of it is there from now on."""
    gives_up_at = scene.ledger.now() + _MOST
    for route in scene.of_kind("plain")[:_MOST_ROUTES]:
        if route.seconds < SLOW and scene.ledger.now() < gives_up_at:
            await asyncio.gather(*(_read(scene, route, group="burst") for _ in range(_BURST)))
    if scene.agent is not None:
        scene.facts["census-warm"] = await scene.agent.census()


async def _calm(scene: Scene) -> dict[str, int]:
    """Read every answer as it should be read, `_READERS` at once; return their sizes."""
    ends_at = scene.ledger.now() + max(0.5, _CALM * scene.scale)
    sizes: dict[str, int] = {}
    gives_up_at = scene.ledger.now() + _MOST
    for route in sorted(_reading(scene.of_kind("plain")), key=lambda route: route.seconds):
        if scene.ledger.now() > gives_up_at:
            break
        row = await _read(scene, route)
        sizes[route.id] = row.size_bytes
        if row.size_bytes >= _LARGE_BYTES:
            await asyncio.gather(*(_read(scene, route) for _ in range(_READERS)))
    await asyncio.sleep(max(0.0, ends_at - scene.ledger.now()))
    return sizes


async def _read(scene: Scene, route: Route, *, group: str = "readers") -> Request:
    return await ask(scene.port, Shot.of(route), timeout=10.0, ledger=scene.ledger, group=group)


async def _leave(scene: Scene) -> None:
    """Leave each route while it works: quick ones often and in mid-work, slow ones a few times."""
    leavings: list[Callable[[], Awaitable[object]]] = []

    def leave(route: Route, times: int, *, after: float) -> None:
        shot = Shot.of(route)
        for number in range(times):
            # A little later each time: there is more than one place to be left at.
            seconds = after * (0.5 + number / times)
            leavings.append(
                partial(
                    leave_early,
                    scene.port,
                    shot,
                    after=seconds,
                    ledger=scene.ledger,
                    group="left",
                )
            )

    for route in scene.of_kind("plain")[:_MOST_ROUTES]:
        if route.seconds >= SLOW:
            leave(route, _LEAVE_SLOW, after=_LEAVE_AFTER)
        else:
            leave(route, _LEAVE_QUICK, after=min(max(route.seconds, 0.002), _LEAVE_AFTER))
    for route in scene.of_kind("stream", "endless")[:_MOST_ROUTES]:
        leave(route, _READERS, after=_READ_STREAM)
    await _few_at_once(leavings, _BURST // 2)


async def _few_at_once(calls: Sequence[Callable[[], Awaitable[object]]], width: int) -> None:
    waiting = iter(calls)

    async def work() -> None:
        for call in waiting:
            await call()

    await asyncio.gather(*(work() for _ in range(width)))


async def _ask_for_nothing(scene: Scene) -> None:
    """Ask for a path that is not there, often: what leaks a piece a request shows by then."""
    shot = Shot(route="(404)", method="GET", url=NOWHERE)
    gives_up_at = scene.ledger.now() + _MOST
    for _ in range(_NOT_THERE):
        if scene.ledger.now() > gives_up_at:
            break
        await ask(scene.port, shot, timeout=2.0, ledger=scene.ledger, group="wrong")


def _long_answers(scene: Scene, sizes: dict[str, int]) -> Sequence[Route]:
    """Return the routes whose answer does not fit into a buffer: streams, then the largest."""
    large = [route for route in scene.of_kind("plain") if sizes.get(route.id, 0) >= _LARGE_BYTES]
    large.sort(key=lambda route: -sizes[route.id])
    return [*_reading(scene.of_kind("endless", "stream")), *large][:_STALLED_ROUTES]


def _reading(routes: Sequence[Route]) -> Sequence[Route]:
    return [route for route in routes if route.method in ("GET", "HEAD")]


async def _stall(scene: Scene, routes: Sequence[Route]) -> None:
    """Let readers stop reading, and look what the app holds for them near the end."""
    scene.facts["stalled-routes"] = [route.id for route in routes]
    if not routes:
        return
    seconds = max(_SHORTEST_STALL, _STALL * scene.scale)
    scene.mark("stalled")
    async with asyncio.TaskGroup() as readers:
        for route in routes:
            for _ in range(_READERS):
                readers.create_task(
                    read_slowly(
                        scene.port,
                        Shot.of(route),
                        seconds=seconds,
                        ledger=scene.ledger,
                        group="stalled",
                    )
                )
        await asyncio.sleep(seconds - 0.3)
        await _note_census(scene, "census-stalled")
    scene.mark("stalled-ended")


async def _send_halves(scene: Scene) -> None:
    """Send half heads and half bodies, and look what the app holds for them near the end."""
    seconds = max(_SHORTEST_HALF, _HALF * scene.scale)
    port, ledger = scene.port, scene.ledger
    scene.mark("half-sent")
    async with asyncio.TaskGroup() as senders:
        for _ in range(_HALF_HEADS):
            senders.create_task(
                send_half_head(port, seconds=seconds, ledger=ledger, group="half-head")
            )
        for route in body_routes(scene)[:_STALLED_ROUTES]:
            for _ in range(_HALF_BODIES):
                senders.create_task(
                    send_half_body(
                        port, Shot.of(route), seconds=seconds, ledger=ledger, group="half-body"
                    )
                )
        await asyncio.sleep(seconds - 0.2)
        await _note_census(scene, "census-half-sent")
    scene.mark("half-sent-ended")


async def _note_census(scene: Scene, name: str) -> None:
    scene.facts[name] = None if scene.agent is None else await scene.agent.census()


ATTACK = Attack(
    name="clients",
    title="clients leave, stop reading, send halves",
    seconds=10.0,
    run=_run,
)
