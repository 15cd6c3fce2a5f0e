"""The sweep: from one caller to four times as many as there are threads or connections."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

from stormproof.prove._attack import Attack, Grounds, Scene
from stormproof.prove._recording import Route
from stormproof.prove._sweep import CLIFF, FACT, PATIENCE, Step, Sweep
from stormproof.prove.load import Shot, closed_loop

from ._busy import Busy, is_cpu_limited, server_pids
from ._capacity import answer_rate

_THREADS = 40
"""Starlette's default, where the agent is not there to say."""

_TIMES = 4
_MOST_CALLERS = 400
_PARTS = (16, 8, 4, 2, 1)
_SLOWEST = 0.4
_LONGEST_QUEUE = 0.4 * PATIENCE
"""Seconds: where each caller would wait longer for its turn, more callers are an overload."""

_REFUSED = 0.1
_PAUSE = 0.2
"""Seconds a caller rests once the app refuses: nobody who is refused asks again at once."""

_PAIRS = 2
"""How often a step that is low is measured again at most, each time beside the best step."""

_STUCK = 0.3
"""Of the best, asked for again: below it the app is still stuck: nothing to compare with."""


async def _run(scene: Scene) -> None:
    routes = _routes(scene.of_kind("plain"))
    threads, pool = await _limits(scene)
    most = min(_MOST_CALLERS, _TIMES * max(threads, pool))
    steps: list[Step] = []
    asking = _Asking(scene, routes)
    for callers in (1, *(max(2, most // part) for part in _PARTS)):
        best = max(steps, key=lambda step: step.rate, default=None)
        if best is not None and best.rate and callers > _LONGEST_QUEUE * best.rate:
            break
        step = await asking.by(callers)
        if step.refused > _REFUSED * step.asked and not asking.pause:
            asking.pause = _PAUSE
            step = await asking.by(callers)
        if best is not None and best.rate:
            step = replace(step, share=min(1.0, step.rate / best.rate))
            if step.share < CLIFF:
                step = await _confirmed(asking, step, best)
        steps.append(step)
        if step.share < CLIFF:
            break
    sweep = Sweep(
        routes=tuple(route.id for route in routes), threads=threads, pool=pool, steps=tuple(steps)
    )
    scene.facts[FACT] = asdict(sweep)


async def _confirmed(asking: "_Asking", low: Step, best: Step) -> Step:
    """Return a low step as its best measurement beside the best step: the machine changes."""
    for _ in range(_PAIRS):
        beside = await asking.by(best.callers)
        if beside.rate < _STUCK * best.rate:
            return low
        again = await asking.by(low.callers)
        if again.rate / beside.rate > low.share:
            low = replace(again, share=min(1.0, again.rate / beside.rate))
        if low.share >= CLIFF:
            break
    return low


def _fits(grounds: Grounds) -> str:
    return "" if _routes(grounds.of_kind("plain")) else "no route ends within 0.4 s by itself"


def _routes(routes: tuple[Route, ...]) -> tuple[Route, ...]:
    """Return those that need a thread or a connection; where none does, all that end soon."""
    able = tuple(route for route in routes if route.seconds <= _SLOWEST)
    return tuple(r for r in able if "pool" in r.uses or r.is_sync or r.has_sync_part) or able


async def _limits(scene: Scene) -> tuple[int, int]:
    """Return how many threads there are for `def` code, and how many connections in the pools."""
    if scene.agent is None:
        return _THREADS, 0
    ready = await scene.agent.until("ready", timeout=1.0)
    threads = _THREADS if ready is None else int(ready.facts.get("thread_limit") or _THREADS)
    pools = (await scene.agent.census()).get("pools", [])
    return threads, max(map(_size, pools), default=0)


def _size(pool: Mapping[str, Any]) -> int:
    """Return the most connections of a pool; without a bound on its overflow, its size."""
    return int(pool.get("size") or 0) + max(0, int(pool.get("overflow_max") or 0))


class _Asking:
    """Asks the routes by so many callers at once.

    Attributes:
        pause: Seconds a caller rests between two requests.
    """

    def __init__(self, scene: Scene, routes: tuple[Route, ...]) -> None:
        self._scene = scene
        self._shots = [Shot.of(route) for route in routes]
        self._seconds = max(0.6, 1.0 * scene.scale, 4 * max(route.seconds for route in routes))
        self._answer_time = fmean(route.seconds for route in routes)
        self.pause = 0.0

    async def by(self, callers: int) -> Step:
        """Return what that many had."""
        scene = self._scene
        group = f"callers-{callers}"
        first = len(scene.ledger.rows)
        began_at = scene.ledger.now()
        server = Busy(server_pids(scene))
        await closed_loop(
            scene.port,
            self._shots,
            callers=callers,
            seconds=self._seconds,
            timeout=PATIENCE,
            ledger=scene.ledger,
            group=group,
            pause=self.pause,
        )
        use = server.use()
        rows = [row for row in scene.ledger.rows[first:] if row.group == group]
        statuses = Counter(row.status for row in rows)
        rate = answer_rate(rows, began_at=began_at, seconds=self._seconds)
        return Step(
            callers=callers,
            rate=rate,
            share=1.0,
            asked=len(rows),
            errors=statuses[500],
            refused=statuses[503] + statuses[429],
            unanswered=sum(row.ended != "complete" for row in rows),
            is_cpu_limited=use is not None
            and is_cpu_limited(use, rate=rate, seconds=self._answer_time),
            starved=0.0 if use is None else use.starved,
        )


ATTACK = Attack(
    name="concurrency",
    title="more and more callers at once",
    seconds=12.0,
    run=_run,
    fits=_fits,
)
