"""Playing an attack: a fresh server around it, watched, and the record at its end."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from stormproof.errors import CouldNotProve

from ._attack import Attack, Scene
from ._options import ProveOptions
from ._recording import AttackRecord, Exit, Probe, Route
from .faults import dependencies, rerouted
from .link import AgentLink
from .load import Ledger, Shot, ask, canary
from .target import started

_WARM_UP = 2
"""How often each plain route is asked before an attack: the first time imports and connects."""

_SETTLE = 3.0
"""Seconds in which what an attack began must have come to an end, or it is left over."""

_SETTLE_HYPERCORN = 6.0
"""hypercorn does not look at a connection that its client has closed until it was idle for 5 s."""

_END = 1.0
"""Seconds a server has after SIGTERM where its end is not what is looked at."""

_SLACK = 30.0
_PROBE_OF_NOTHING = "/stormproof-canary"


async def play(
    attack: Attack,
    *,
    options: ProveOptions,
    routes: tuple[Route, ...],
    zero: float,
    round: int = 0,
    resting: asyncio.Event | None = None,
) -> tuple[AttackRecord, Scene]:
    """Run an attack against a server of its own and return its record.

    Waits until the server has gone. Cancelled: nothing is left running, and nothing is returned.
    `resting` is set when the attack goes on to do nothing but wait, if it comes to that.

    Raises:
        CouldNotProve: The app could not be started.
    """
    async with _scene(options, routes, zero) as scene:
        scene.resting = resting or scene.resting
        began_at = scene.ledger.now()
        await _warm_up(scene)
        problem, probes = await _watched(attack, scene)
        exit = await _ended(scene)
        record = AttackRecord(
            name=attack.name,
            round=round,
            began_at=began_at,
            ended_at=scene.ledger.now(),
            marks=dict(scene.marks),
            requests=tuple(scene.ledger.rows),
            canary=tuple(probes),
            samples=tuple(scene.target.samples),
            events=() if scene.agent is None else tuple(scene.agent.events),
            facts=dict(scene.facts),
            exit=exit,
            problem=problem,
        )
    return record, scene


@asynccontextmanager
async def _scene(
    options: ProveOptions, routes: tuple[Route, ...], zero: float
) -> AsyncIterator[Scene]:
    """Start the app behind its fault proxies with the agent inside."""
    environ: Mapping[str, str] = {**os.environ, **options.environment}
    found = dependencies(environ, options.dependencies, allow_remote=options.allow_remote)
    async with AsyncExitStack() as stack:
        proxies, environment = await stack.enter_async_context(rerouted(found))
        bare = environment = {**options.environment, **environment}
        agent = None
        if options.server != "command":
            agent = await stack.enter_async_context(AgentLink.listening(zero, environ=environ))
            environment = {**bare, **agent.environment}
        target = await stack.enter_async_context(
            started(options, zero=zero, environment=environment)
        )
        if agent is not None and await agent.until("ready", timeout=5.0) is None:
            agent = None
        yield Scene(
            options=options,
            target=target,
            ledger=Ledger(zero),
            agent=agent,
            routes=routes,
            dependencies=tuple(proxies),
            has_agent=agent is not None,
            proxies=proxies,
            scale=0.4 if options.is_quick else 1.0,
            again=lambda: started(options, zero=zero, environment=bare),
        )


async def _warm_up(scene: Scene) -> None:
    """Ask each plain route, so that what is done once is done; nothing of it is recorded."""
    aside = scene.ledger.aside()
    for route in scene.of_kind("plain", "health"):
        for _ in range(_WARM_UP):
            await ask(scene.port, Shot.of(route), timeout=10.0, ledger=aside, group="warm-up")


async def _watched(attack: Attack, scene: Scene) -> tuple[str, list[Probe]]:
    """Run the attack with the canary beside it and a census before and after."""
    scene.facts["census-before"] = await _census(scene)
    limit = attack.seconds * 3 + scene.options.profile.grace * 2 + _SLACK
    problem, probes = "", []
    async with AsyncExitStack() as stack:
        if attack.has_canary:
            probes = await stack.enter_async_context(
                canary(scene.port, _canary_path(scene), zero=scene.ledger.zero)
            )
        try:
            async with asyncio.timeout(limit):
                await attack.run(scene)
        except CouldNotProve:
            raise
        except TimeoutError:
            problem = f"it was not over after {limit:.0f} s"
        except Exception as error:  # the other attacks still have something to say
            problem = f"{type(error).__name__}: {error}"
    if await scene.target.ended(0.0) is None:
        scene.facts["census-after"] = await _settled(scene)
    return problem, probes


def _canary_path(scene: Scene) -> str:
    for role in ("live", "both", "ready"):
        for route in scene.routes:
            if route.health == role:
                return route.url
    return _PROBE_OF_NOTHING


async def _census(scene: Scene) -> dict[str, Any] | None:
    return None if scene.agent is None else await scene.agent.census()


async def _settled(scene: Scene) -> dict[str, Any] | None:
    """Return the census once it is back at what it was, or after 3 s."""
    before = scene.facts.get("census-before")
    after = await _census(scene)
    is_slow = scene.options.server == "hypercorn"
    ends_at = scene.ledger.now() + (_SETTLE_HYPERCORN if is_slow else _SETTLE)
    while before and after and scene.ledger.now() < ends_at:
        is_back = after["tasks"] <= before["tasks"] and not after["checkouts"]
        if is_back:
            break
        await asyncio.sleep(0.1)
        after = await _census(scene)
    return after


async def _ended(scene: Scene) -> Exit:
    """End the server, unless the attack has; how it ends counts only where an attack looks."""
    if (exit := await scene.target.ended(0.0)) is not None:
        return exit
    scene.target.signal(signal.SIGTERM)
    return await scene.target.ended(_END) or await scene.target.kill()
