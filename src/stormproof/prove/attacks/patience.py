"""Patience: streams on which nothing happens, and requests of which only half ever comes."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from stormproof.prove._attack import Attack, Scene
from stormproof.prove._recording import Route
from stormproof.prove.load import Shot, StreamReader, send_half_body, send_half_head

from ._guests import body_routes, others

WATCH = 21.0
"""Seconds of waiting, with `--quick` as well: the limits that are judged are 20 s."""

_HALVES = 3
_MOST_ROUTES = 4
_PAUSE = 0.25


async def _run(scene: Scene) -> None:
    streams = [route for route in scene.of_kind("endless") if route.method in ("GET", "HEAD")][
        :_MOST_ROUTES
    ]
    scene.mark("waiting")
    async with others(scene, callers=1, pause=_PAUSE), asyncio.TaskGroup() as tasks:
        readings = [tasks.create_task(_read(scene, route)) for route in streams]
        _send_halves(scene, tasks, body_routes(scene)[:_MOST_ROUTES])
        await asyncio.sleep(WATCH / 2)
        if scene.agent is not None:
            scene.facts["census-waiting"] = await scene.agent.census()
    scene.facts["streams"] = [reading.result() for reading in readings]
    if scene.agent is not None:
        await scene.agent.collect()
    scene.mark("over")


def _send_halves(scene: Scene, tasks: asyncio.TaskGroup, routes: Sequence[Route]) -> None:
    port, ledger = scene.port, scene.ledger
    for _ in range(_HALVES):
        tasks.create_task(send_half_head(port, seconds=WATCH, ledger=ledger, group="half-head"))
        for route in routes:
            shot = Shot.of(route)
            tasks.create_task(
                send_half_body(port, shot, seconds=WATCH, ledger=ledger, group="half-body")
            )


async def _read(scene: Scene, route: Route) -> dict[str, Any]:
    """Read a stream for `WATCH` seconds, and return when something came."""
    reader = StreamReader(scene.port, Shot.of(route), ledger=scene.ledger, group="idle")
    async with reader:
        began_at = scene.ledger.now()
        await reader.wait_end(WATCH)
        ended_at = reader.ended_at if reader.ended is not None else scene.ledger.now()
    return {
        "route": route.id,
        "status": reader.status,
        "began": began_at,
        "ended": ended_at,
        "is_over": reader.ended_at is not None and reader.request().ended != "left",
        "pieces": len(reader.chunks),
        "silence": _longest(began_at, [at for at, _ in reader.chunks], ended_at),
    }


def _longest(began_at: float, pieces: Sequence[float], ended_at: float | None) -> float:
    """Return the longest time without a byte of the body, from the request on."""
    moments = [began_at, *pieces, *([] if ended_at is None else [ended_at])]
    return max((after - before for before, after in pairwise(moments)), default=0.0)


ATTACK = Attack(
    name="patience",
    title="idle streams and half-sent requests",
    seconds=WATCH + 1.0,
    run=_run,
)
