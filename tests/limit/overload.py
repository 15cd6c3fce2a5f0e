"""Overload in virtual time: a resource with a capacity, and callers that leave after a while.

As with a plain endpoint in FastAPI, a caller that has left cancels nothing: the work for it is
done all the same.
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from stormproof.errors import StormproofError
from tests.virtual_time import run_virtually

SLOTS = 10
SERVICE = 0.05
CAPACITY = SLOTS / SERVICE
"""Calls a second that the resource can do."""
PATIENCE = 1.0
"""Seconds after which a caller leaves."""

Gate = Callable[[], AbstractAsyncContextManager[object]]


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt: when it came, when it was done (None: it was shed), and when it was told."""

    arrived_at: float
    done_at: float | None
    told_at: float

    @property
    def is_good(self) -> bool:
        return self.done_at is not None and self.done_at - self.arrived_at <= PATIENCE


@dataclass
class Storm:
    """Callers of one gate, and what became of their calls."""

    gate: Gate
    service: float = SERVICE
    tries: int = 1
    seed: int = 1
    calls: list[Call] = field(default_factory=list)
    callers: list[tuple[float, bool]] = field(default_factory=list)
    """When each came, and whether one of its attempts was good."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    async def call(self) -> None:
        came_at, is_good = asyncio.get_running_loop().time(), False
        for attempt in range(self.tries):
            is_good = await self.attempt()
            if is_good:
                break
            await asyncio.sleep(self.random.uniform(0.0, 0.1) * 2**attempt)
        self.callers.append((came_at, is_good))

    async def attempt(self) -> bool:
        loop = asyncio.get_running_loop()
        arrived_at, done_at = loop.time(), None
        try:
            async with self.gate():
                await asyncio.sleep(self.service * self.random.uniform(0.8, 1.2))
                done_at = loop.time()
        except StormproofError:
            pass
        self.calls.append(Call(arrived_at, done_at, loop.time()))
        return self.calls[-1].is_good

    def poisson(self, rate: float, seconds: float) -> Iterator[float]:
        """Yield the pauses between calls that come at random, `rate` a second."""
        passed = 0.0
        while (pause := self.random.expovariate(rate)) + passed < seconds:
            passed += pause
            yield pause

    async def offer(self, rate: float, seconds: float) -> None:
        """Let calls come for a while, and return when the last one has ended."""
        async with asyncio.TaskGroup() as group:
            for pause in self.poisson(rate, seconds):
                await asyncio.sleep(pause)
                group.create_task(self.call())

    def good(self, start: float, end: float) -> int:
        """Return how many were served, in time, of those that came between the two times."""
        return sum(call.is_good for call in self.calls if start <= call.arrived_at < end)

    def waits(self, start: float) -> list[float]:
        """Return the times to the answer of the served, in order, of those that came later."""
        served = [c for c in self.calls if c.done_at is not None and c.arrived_at >= start]
        return sorted(c.told_at - c.arrived_at for c in served)

    @property
    def wasted(self) -> int:
        """The calls whose work was done for a caller that had left."""
        return sum(call.done_at is not None and not call.is_good for call in self.calls)


def run_storm(storm: Storm, *loads: tuple[float, float]) -> list[float]:
    """Offer each load (calls a second, seconds) after the other; return when each began."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        began_at = []
        async with asyncio.TaskGroup() as group:
            for rate, seconds in loads:
                began_at.append(loop.time())
                group.create_task(storm.offer(rate, seconds))
                await asyncio.sleep(seconds)
        return [*began_at, began_at[-1] + loads[-1][1]]

    return run_virtually(main())


def percentile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]
