"""The threads: the slowest `def` route is asked by twice as many as there are threads."""

import asyncio
from collections.abc import Iterable

from stormproof.prove._attack import Attack, Grounds, Scene
from stormproof.prove._recording import Route
from stormproof.prove.load import Shot, closed_loop, open_loop

_THREADS = 40
_TIMES = 2
_SHORTEST = 0.05
"""Seconds: behind twice as many callers as threads others wait about as long as the route takes,
so a shorter one holds nobody up."""

_RATE = 40.0
_FILL = 0.3
_PATIENCE = 2.0
_OTHERS = 12


async def _run(scene: Scene) -> None:
    slow = _slowest(scene.routes)
    assert slow is not None, "the attack does not fit without a slow def route"
    others = _others(scene, slow)
    ready = None if scene.agent is None else await scene.agent.until("ready", timeout=1.0)
    threads = _THREADS if ready is None else int(ready.facts.get("thread_limit") or _THREADS)
    seconds = max(1.0, 2.0 * scene.scale)
    scene.facts["threads"] = {"route": slow.id, "seconds": slow.seconds, "limit": threads}
    await _ask_others(scene, others, seconds=seconds, group="before")
    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(
            closed_loop(
                scene.port,
                [Shot.of(slow)],
                callers=_TIMES * threads,
                seconds=4 * seconds + _PATIENCE,
                timeout=max(_PATIENCE, 4 * slow.seconds),
                ledger=scene.ledger,
                group="slow",
                until=is_over,
            )
        )
        await asyncio.sleep(_FILL)  # the load is the event: threads fill as requests arrive
        scene.mark("threads-full")
        await _ask_others(scene, others, seconds=max(seconds, 2 * slow.seconds), group="during")
        scene.mark("threads-free")
        is_over.set()


async def _ask_others(
    scene: Scene, others: tuple[Route, ...], *, seconds: float, group: str
) -> None:
    await open_loop(
        scene.port,
        [Shot.of(route) for route in others],
        rate=_RATE,
        seconds=seconds,
        timeout=_PATIENCE,
        ledger=scene.ledger,
        group=group,
    )


def _slowest(routes: Iterable[Route]) -> Route | None:
    able = [r for r in routes if r.kind == "plain" and r.is_sync and r.seconds >= _SHORTEST]
    return max(able, key=lambda route: route.seconds, default=None)


def _others(scene: Grounds, slow: Route) -> tuple[Route, ...]:
    """Return the quick routes and the probes."""
    routes = (route for route in scene.of_kind("plain", "health") if route.id != slow.id)
    return tuple(sorted(routes, key=lambda route: route.seconds))[:_OTHERS]


def _fits(grounds: Grounds) -> str:
    slow = _slowest(grounds.routes)
    if slow is None:
        return f"no def route takes longer than {1000 * _SHORTEST:.0f} ms"
    if not _others(grounds, slow):
        return f"there is no route beside {slow.id}"
    return ""


ATTACK = Attack(
    name="threads",
    title="one slow def route holds every thread",
    seconds=6.0,
    run=_run,
    fits=_fits,
)
