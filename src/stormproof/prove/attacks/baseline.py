"""The baseline: learn the routes, then a light load, wrong paths and wrong values."""

import statistics
from dataclasses import replace

from stormproof.prove._attack import Attack, Scene
from stormproof.prove._learn import NOWHERE, Learned, learn
from stormproof.prove._openapi import wrong_url
from stormproof.prove._recording import Route
from stormproof.prove.load import Shot, ask, closed_loop

_CALLERS = 4
_SECONDS = 3.0
_WRONG = 25
"""How often each wrong request is sent: what leaks a piece a request shows by then."""

_WRONG_SECONDS = 2.0
"""Seconds for all sendings of one of them; a route that answers 504 takes its time."""


async def _run(scene: Scene) -> None:
    learned = await learn(scene)
    scene.routes = learned.routes
    scene.facts["notes"] = list(learned.notes)
    if scene.agent is not None:
        scene.facts["census-before"] = await scene.agent.census()
    scene.mark("light-load")
    shots = scene.shots("plain")
    if shots:
        await closed_loop(
            scene.port,
            shots,
            callers=_CALLERS,
            seconds=_SECONDS * scene.scale,
            timeout=scene.options.deadline,
            ledger=scene.ledger,
            group="steady",
        )
    if scene.agent is not None:
        scene.facts["census-steady"] = await scene.agent.census()
    scene.mark("wrong-requests")
    await _ask_wrongly(scene, learned)
    scene.routes = tuple(_timed(scene, route) for route in scene.routes)


async def _ask_wrongly(scene: Scene, learned: Learned) -> None:
    """Ask for a path that is not there, and each route with a value that is no number."""
    shots = [Shot(route="(404)", method="GET", url=NOWHERE)]
    for route in learned.routes:
        if route.method == "GET" and (url := wrong_url(learned.document, route)) is not None:
            shots.append(Shot(route="(422)", method="GET", url=url, headers=route.headers))
    for route in scene.of_kind("broken"):
        if route.method == "GET" and route.status:
            shots.append(replace(Shot.of(route), route="(broken)"))
    for shot in shots[:6]:
        ends_at = scene.ledger.now() + _WRONG_SECONDS
        for _ in range(_WRONG):
            if scene.ledger.now() > ends_at:
                break
            await ask(scene.port, shot, timeout=5.0, ledger=scene.ledger, group="wrong")


def _timed(scene: Scene, route: Route) -> Route:
    """Return the route with its median answer time under light load."""
    latencies = [
        request.latency
        for request in scene.ledger.rows
        if request.group == "steady" and request.route == route.id and request.is_good
        if request.latency is not None
    ]
    return replace(route, seconds=statistics.median(latencies)) if latencies else route


ATTACK = Attack(
    name="baseline",
    title="learn the routes, then a light load",
    seconds=8.0,
    run=_run,
    has_canary=False,
)
