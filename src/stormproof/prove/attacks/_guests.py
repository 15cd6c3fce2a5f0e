"""Guests: what the two attacks on clients share, which routes to choose and who else is served."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from stormproof.prove._attack import Scene
from stormproof.prove._learn import NOWHERE
from stormproof.prove._recording import Route
from stormproof.prove.load import Shot, closed_loop

OTHERS = "others"
"""The group of those who behave well meanwhile."""

SLOW = 0.8
"""Seconds from which a route is slow enough to leave it while it works."""

_SAFE = ("GET", "HEAD")
_BODIES = ("POST", "PUT", "PATCH")
_LONGEST = 120.0


def quick_shots(scene: Scene) -> Sequence[Shot]:
    """Return what well-behaved clients ask for: quick routes that only read, else a 404."""
    quick = [
        route
        for route in scene.of_kind("plain")
        if route.method in _SAFE and route.seconds < SLOW / 2
    ]
    chosen = quick or list(scene.of_kind("health"))
    return [Shot.of(route) for route in chosen] or [Shot(route="(404)", method="GET", url=NOWHERE)]


def body_routes(scene: Scene) -> Sequence[Route]:
    """Return the routes that read a body."""
    return [route for route in scene.of_kind("plain") if route.method in _BODIES]


@asynccontextmanager
async def others(scene: Scene, *, callers: int, pause: float) -> AsyncIterator[None]:
    """Let well-behaved clients ask as long as the block lasts; their answers are waited for."""
    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(
            closed_loop(
                scene.port,
                quick_shots(scene),
                callers=callers,
                seconds=_LONGEST,
                timeout=5.0,
                ledger=scene.ledger,
                group=OTHERS,
                until=is_over,
                pause=pause,
            )
        )
        try:
            yield
        finally:
            is_over.set()
