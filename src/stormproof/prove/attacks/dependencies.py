"""Dependencies: each one in turn is slow, down, hanging up and silent, and comes back."""

import asyncio
from collections.abc import Sequence
from typing import Any

from stormproof.prove._attack import Attack, Grounds, Scene
from stormproof.prove._recording import Request, Route
from stormproof.prove.faults import Blackhole, Down, Fault, FaultProxy, Latency, Refuse
from stormproof.prove.load import Ledger, Shot, ask, closed_loop, open_loop

_MOST_DEPENDENCIES = 3
_LOOKS = 2
_MOST_USERS = 4
_MOST_OTHERS = 6
"""Half of them with a part that runs in a thread, where there are such."""

_ONE_WAY = 1.5
"""Seconds a slow dependency takes in each direction. Long, so that few requests a second hold
all that can be held, and a small machine is not at its end for their sake."""

_CALLERS = 60
"""More than the 40 threads, and more than any usual pool."""

_RAMP = 1.0

_REST = 1.5
"""Seconds a caller rests after a quick answer: whoever sheds load is not drowned for it."""

_QUICK = 0.5

_OTHERS_RATE = 6.0
"""Requests per second to each route that does not use it."""

_GIVE_UP = 3.0
_DOWN_LIMIT = 6.0
_SLACK = 1.0
_BACK_LIMIT = 6.0
"""Seconds after its return in which a route must have come back."""

_GOOD_IN_A_ROW = 3

_ENOUGH = 12
"""Requests that show whether connections are kept; a slow route gets more turns for it."""

_MOST_TURNS = 8


class _Dependency:
    """One dependency on the scene: all proxies of one variable, taken down together."""

    def __init__(self, scene: Scene, name: str, proxies: Sequence[FaultProxy]) -> None:
        self.scene = scene
        self.name = name
        self.proxies = proxies
        self.users: tuple[Route, ...] = ()
        self.others: tuple[Route, ...] = ()
        self.noted: dict[str, Any] = {"deadline": scene.options.deadline}

    def set(self, fault: Fault) -> None:
        for proxy in self.proxies:
            proxy.set(fault)

    def clear(self) -> None:
        for proxy in self.proxies:
            proxy.clear()

    def count(self, name: str) -> int:
        return sum(int(getattr(proxy, name)) for proxy in self.proxies)

    def mark(self, name: str) -> None:
        self.scene.mark(f"{name}:{self.name}")

    async def ask(self, route: Route, phase: str, *, timeout: float) -> Request:
        return await ask(
            self.scene.port,
            Shot.of(route),
            timeout=timeout,
            ledger=self.scene.ledger,
            group=f"{phase}:{self.name}",
        )


async def _run(scene: Scene) -> None:
    found: dict[str, list[FaultProxy]] = {}
    for name, proxy in scene.proxies.items():
        found.setdefault(name.partition("[")[0], []).append(proxy)
    noted = scene.facts["dependencies"] = {}
    for name in list(found)[:_MOST_DEPENDENCIES]:
        dependency = _Dependency(scene, name, found[name])
        noted[name] = dependency.noted
        try:
            await _attack(dependency)
        finally:
            dependency.clear()
        if dependency.noted.get("died"):
            return


async def _attack(one: _Dependency) -> None:
    await _find_users(one)
    if not one.users:
        return
    for phase, play in (
        ("before", _before),
        ("slow", _slow),
        ("down", _down),
        ("refused", _refused),
        ("blackhole", _blackhole),
    ):
        await play(one)
        if await one.scene.target.ended(0.0) is not None:
            one.noted["died"] = phase
            return


async def _find_users(one: _Dependency) -> None:
    """Ask each plain route alone: who made it send something each time uses it.

    Each time, because others send as well: work after a response, a pool that looks whether its
    connections live.
    """
    aside = one.scene.ledger.aside()
    learned = {f"dependency:{proxy.name}" for proxy in one.proxies}
    users, others = [], []
    for route in one.scene.of_kind("plain"):
        seen = [bool(learned & set(route.uses))]
        for _ in range(_LOOKS):
            if not seen[-1] and len(seen) > 1:
                break
            before = one.count("bytes_up")
            answer = await ask(
                one.scene.port, Shot.of(route), timeout=5.0, ledger=aside, group="look"
            )
            seen.append(one.count("bytes_up") > before and answer.is_good)
        if all(seen):
            users.append(route)
        elif not seen[0]:
            others.append(route)
    probes = [route for route in one.scene.of_kind("health") if route.health == "live"]
    one.users = tuple(_spread(users, _MOST_USERS))
    one.others = (*_spread(others, _MOST_OTHERS - len(probes)), *probes)
    one.noted["users"] = [route.id for route in one.users]
    one.noted["others"] = [route.id for route in one.others]


def _spread(routes: Sequence[Route], most: int) -> list[Route]:
    """Return at most so many routes, from those with a thread and those without in turn."""
    threaded = [route for route in routes if route.is_sync or route.has_sync_part]
    plain = [route for route in routes if route not in threaded]
    found: list[Route] = []
    while (threaded or plain) and len(found) < most:
        for each in (threaded, plain):
            if each and len(found) < most:
                found.append(each.pop(0))
    return found


async def _before(one: _Dependency) -> None:
    """Light load: what is usual, and how many connections it takes."""
    reuse: dict[str, dict[str, int]] = {}
    for route in one.users:
        await _light_load(one, route, one.scene.ledger.aside(), seconds=0.15)
        accepted, rows = one.count("accepted"), len(one.scene.ledger.rows)
        for _ in range(_MOST_TURNS):
            await _light_load(one, route, one.scene.ledger, seconds=0.4)
            if len(one.scene.ledger.rows) - rows >= _ENOUGH:
                break
        reuse[route.id] = {
            "opened": one.count("accepted") - accepted,
            "requests": len(one.scene.ledger.rows) - rows,
        }
    one.noted["reuse"] = reuse
    await _ask_others(one, "before-others", seconds=1.0)


async def _light_load(one: _Dependency, route: Route, ledger: Ledger, *, seconds: float) -> None:
    await closed_loop(
        one.scene.port,
        [Shot.of(route)],
        callers=2,
        seconds=seconds,
        timeout=5.0,
        ledger=ledger,
        group=f"before-users:{one.name}",
    )


async def _ask_others(one: _Dependency, phase: str, *, seconds: float) -> None:
    if not one.others:
        return
    await open_loop(
        one.scene.port,
        [Shot.of(route) for route in one.others],
        rate=_OTHERS_RATE * len(one.others),
        seconds=seconds,
        timeout=_GIVE_UP,
        ledger=one.scene.ledger,
        group=f"{phase}:{one.name}",
    )


async def _slow(one: _Dependency) -> None:
    """Many wait for the slow dependency; what the others feel of it is what is looked at."""
    one.set(Latency(_ONE_WAY))
    one.mark("slow-begun")
    waiting = asyncio.create_task(_callers(one))
    try:
        await asyncio.sleep(_RAMP + 0.5)
        await _ask_others(one, "slow-others", seconds=max(1.5, 2.5 * one.scene.scale))
    finally:
        waiting.cancel()
        await asyncio.wait((waiting,))
        one.clear()
        one.mark("slow-ended")
    await _settle(one)


async def _callers(one: _Dependency) -> None:
    """Let many ask the routes that use it, until cancelled."""

    async def caller(number: int) -> None:
        route = one.users[number % len(one.users)]
        await asyncio.sleep(_RAMP * number / _CALLERS)
        while True:
            answer = await one.ask(route, "slow-users", timeout=one.scene.options.deadline)
            is_quick = answer.latency is None or answer.latency < _QUICK
            await asyncio.sleep(_REST if is_quick else 0.05)

    async with asyncio.TaskGroup() as callers:
        for number in range(_CALLERS):
            callers.create_task(caller(number))


async def _settle(one: _Dependency) -> None:
    """Wait until the routes answer again, so that one fault is not seen in the next."""
    aside = one.scene.ledger.aside()
    ends_at = aside.now() + _BACK_LIMIT
    waiting = list(one.users)
    while waiting and aside.now() < ends_at:
        answers = await asyncio.gather(
            *(
                ask(one.scene.port, Shot.of(route), timeout=2.0, ledger=aside, group="settle")
                for route in waiting
            )
        )
        waiting = [
            route for route, answer in zip(waiting, answers, strict=True) if not answer.is_good
        ]
        await asyncio.sleep(0.1)


async def _down(one: _Dependency) -> None:
    async def caller(route: Route) -> None:
        for _ in range(_GOOD_IN_A_ROW):
            answer = await one.ask(route, "down", timeout=_DOWN_LIMIT)
            if answer.ended == "timeout":
                return

    one.set(Down())
    one.mark("down-begun")
    await asyncio.gather(*(caller(route) for route in one.users))
    await _come_back(one, "down")


async def _come_back(one: _Dependency, fault: str) -> None:
    """End the fault and ask until each route has come back, or too late is sure."""
    one.clear()
    one.mark(f"{fault}-ended")
    ends_at = one.scene.ledger.now() + _BACK_LIMIT

    async def caller(route: Route) -> None:
        in_a_row = 0
        while in_a_row < _GOOD_IN_A_ROW and one.scene.ledger.now() < ends_at:
            answer = await one.ask(route, f"back-{fault}", timeout=_GIVE_UP)
            in_a_row = in_a_row + 1 if answer.is_good else 0
            await asyncio.sleep(0.1)

    await asyncio.gather(*(caller(route) for route in one.users))


async def _refused(one: _Dependency) -> None:
    """Count attempts where each is seen: connections are taken and closed at once."""
    retries: dict[str, dict[str, float]] = {}
    for route in one.users:
        one.set(Refuse())
        attempts = one.count("attempts")
        answers = [await one.ask(route, "refused", timeout=_DOWN_LIMIT) for _ in range(2)]
        tried = one.count("attempts") - attempts
        one.clear()
        retries[route.id] = {
            "attempts": tried,
            "requests": len(answers),
            "fresh": await _fresh(one, route),
        }
    one.noted["retries"] = retries


async def _fresh(one: _Dependency, route: Route) -> int:
    """Return how many connections one request opens when none is left from before."""
    for _ in range(_GOOD_IN_A_ROW):
        attempts = one.count("attempts")
        answer = await one.ask(route, "fresh", timeout=_GIVE_UP)
        if answer.is_good:
            return one.count("attempts") - attempts
        await asyncio.sleep(0.2)
    return 1


async def _blackhole(one: _Dependency) -> None:
    one.set(Blackhole())
    one.mark("blackhole-begun")
    timeout = one.scene.options.deadline + _SLACK
    await asyncio.gather(
        *(one.ask(route, "blackhole", timeout=timeout) for route in one.users for _ in range(2))
    )
    await _come_back(one, "blackhole")


def _fits(grounds: Grounds) -> str:
    if grounds.dependencies:
        return ""
    return (
        "no dependency on this machine was found in the environment (*_URL with a host): name one "
        "with --dependency NAME=URL"
    )


ATTACK = Attack(
    name="dependencies",
    title="each dependency slow, down, silent, and back",
    seconds=20.0,
    run=_run,
    fits=_fits,
)
