"""The capacity of a route: its good answers per second with enough callers, and what limits it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import linear_regression

from stormproof.prove._attack import Scene
from stormproof.prove._overload import LimitedBy
from stormproof.prove._recording import Request, Route
from stormproof.prove.load import Shot, closed_loop

from ._busy import Busy, Use, is_cpu_limited, server_pids

_CALLERS = (16, 64, 192)
_TIMEOUT = 2.0
_LONGEST_QUEUE = 0.8
"""Seconds a caller may have to wait for its turn; more callers than that would begin to give up."""

_FILLED = 0.7
"""Of what so many callers would have had without a queue; below it they are enough."""

_GAIN = 1.3
"""Times the answers that three or four times the callers have at least, unless they queue."""

_LEAST_ANSWER_TIMES = 6
"""Answer times a step lasts at least: slots come free in bursts, one for each answer time."""

_GENERATOR_BUSY = 0.8
_FEW_BAD = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a route did with so many callers.

    Attributes:
        route: The route.
        rate: Good answers per second.
        callers: How many asked, one request after another.
        use: What the server's busiest process did meanwhile.
        is_filled: Whether more callers would only have waited longer.
        is_generator_busy: Whether the load generator did not ask faster.
    """

    route: Route
    rate: float
    callers: int
    use: Use
    is_filled: bool
    is_generator_busy: bool

    @property
    def limited_by(self) -> LimitedBy:
        """What limits it."""
        is_cpu = is_cpu_limited(self.use, rate=self.rate, seconds=self.route.seconds)
        return "cpu" if is_cpu else "waiting"


async def capacity_of(scene: Scene, route: Route, *, seconds: float) -> Capacity:
    """Ask a route with more and more callers until they wait for each other.

    Args:
        scene: Where.
        route: One that ends by itself.
        seconds: Of each of the up to three steps, at least.
    """
    best = await _step(scene, route, _CALLERS[0], seconds)
    for callers in _CALLERS[1:]:
        is_enough = best.is_filled or best.is_generator_busy or best.limited_by == "cpu"
        if is_enough or callers > _LONGEST_QUEUE * best.rate:
            break
        step = await _step(scene, route, callers, seconds)
        if step.rate < _GAIN * best.rate:
            return replace(max(best, step, key=lambda each: each.rate), is_filled=True)
        best = step
    return best


async def _step(scene: Scene, route: Route, callers: int, seconds: float) -> Capacity:
    seconds = max(seconds, _LEAST_ANSWER_TIMES * route.seconds)
    group = "capacity"
    first = len(scene.ledger.rows)
    began_at = scene.ledger.now()
    server, generator_before = Busy(server_pids(scene)), time.process_time()
    await closed_loop(
        scene.port,
        [Shot.of(route)],
        callers=callers,
        seconds=seconds,
        timeout=_TIMEOUT,
        ledger=scene.ledger,
        group=group,
    )
    took = scene.ledger.now() - began_at
    generator_share = (time.process_time() - generator_before) / took
    rows = [row for row in scene.ledger.rows[first:] if row.group == group]
    rate = answer_rate(rows, began_at=began_at, seconds=seconds)
    is_refusing = sum(not row.is_good for row in rows) > _FEW_BAD * len(rows)
    return Capacity(
        route=route,
        rate=rate,
        callers=callers,
        use=server.use() or _sampled(scene, began_at),
        is_filled=is_refusing or rate * route.seconds < _FILLED * callers,
        is_generator_busy=generator_share >= _GENERATOR_BUSY,
    )


def answer_rate(rows: Sequence[Request], *, began_at: float, seconds: float) -> float:
    """Return the good answers per second of a closed loop that sent for `seconds`.

    The slope of their count over time: ten slots of 0.3 s answer in bursts of ten, and counting
    those in a short time would be wrong by a whole burst. Where the answers stop early, it is
    their number over the time.
    """
    ends = sorted(
        row.last_byte_at
        for row in rows
        if row.is_good and row.last_byte_at is not None and row.last_byte_at < began_at + seconds
    )
    if len(ends) < 3 or ends[-1] - ends[0] < seconds / 2:
        return len(ends) / seconds
    return linear_regression(ends, range(len(ends))).slope


def _sampled(scene: Scene, began_at: float) -> Use:
    """Return what the samples say, where the system does not count the waiting."""
    samples = [sample for sample in scene.target.samples if sample.at >= began_at]
    if len(samples) < 2:
        return Use(ran=0.0, busy=0.0)
    took = samples[-1].at - samples[0].at
    ran = (samples[-1].cpu_seconds - samples[0].cpu_seconds) / max(took, 1e-9)
    return Use(ran=ran, busy=ran)
