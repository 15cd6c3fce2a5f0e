"""A limit, retries, hedges and a circuit breaker at once, on sockets, with callers who leave."""

import asyncio
import contextlib
import random
from collections.abc import Sequence

import pytest

from stormproof.errors import StormproofError
from stormproof.limit import Limiter
from stormproof.upstream import Budget, CircuitBreaker, Hedge, Retry, Upstream
from stormproof.upstream._aiohttp import AiohttpTransport
from tests.harness import until
from tests.virtual_time import LoopClock, stall

from .script import Script, Step, play
from .servers import Peer


@pytest.mark.parametrize("rounds", [8, pytest.param(75, marks=pytest.mark.storm)])
@pytest.mark.parametrize("is_aiohttp", [False, True])
async def test_random_cancels_lose_no_slot_no_connection_and_no_task(
    server: Peer, is_aiohttp: bool, rounds: int
) -> None:
    """Eight calls a round; 600 in the storm."""
    generator = random.Random(11)
    limit = Limiter(5, max_wait=0.2)
    upstream = Upstream(
        base_url=server.url(""),
        timeout=0.3,
        max_connections=5,
        transport=AiohttpTransport(max_connections=5) if is_aiohttp else None,
        limit=limit,
        retry=Retry(3, base=0.005, broken=True),
        hedge=Hedge(min_delay=0.005, min_calls=1),
        budget=Budget(1.0, minimum=1000),
        breaker=CircuitBreaker(1.0, min_calls=1000),
    )

    async def get(path: str) -> None:
        await upstream.get(path, operation="all")

    async def read(path: str) -> None:
        async with upstream.stream("GET", path) as response:
            pieces = response.aiter_bytes()
            for _ in range(3):
                await anext(pieces)

    async def call(path: str) -> None:
        task = asyncio.create_task(read(path) if path == "/drip" else get(path))
        for _ in range(generator.randrange(0, 80)):
            await asyncio.sleep(0)
        if generator.random() < 0.5:
            await asyncio.sleep(generator.random() * 0.03)
        if generator.random() < 0.8:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, StormproofError):
            await task

    async with upstream:
        for _ in range(rounds):
            paths = (
                generator.choice(["/ok", "/hang", "/503", "/closed", "/drip"]) for _ in range(8)
            )
            await asyncio.gather(*(call(path) for path in paths))
        held = limit.statistics()
        assert (held.in_use, held.waiting, upstream.statistics().in_flight) == (0, 0, 0)
        # The other tasks are the server's, one for each connection.
        await until(lambda: len(asyncio.all_tasks()) <= 1 + server.open_connections)
        for _ in range(3):
            answers = await asyncio.gather(*(upstream.get("/ok", timeout=5.0) for _ in range(4)))
            assert [answer.status_code for answer in answers] == [200] * 4
        await until(lambda: server.open_connections <= 5)
    await until(lambda: server.open_connections == 0)


def is_done_after(turns: int, statuses: Sequence[int]) -> bool:
    """Cancel a fan-out with everything on after so many ticks; return whether it was done."""
    script = Script([Step(status, delay=0.001) for status in statuses])
    limit = Limiter(2)
    breaker = CircuitBreaker(clock=LoopClock())

    async def main(upstream: Upstream) -> bool:
        gathering = asyncio.create_task(upstream.gather("/a", "/b", "/c", min_success=0))
        for _ in range(turns):
            await asyncio.sleep(0)
            stall(0.0002)  # a fifth of what an answer takes
        is_done = gathering.done()
        gathering.cancel()
        await asyncio.wait([gathering])
        held = limit.statistics()
        assert (held.in_use, held.waiting, upstream.statistics().in_flight) == (0, 0, 0)
        assert breaker._in_flight == script.running == 0
        assert len(asyncio.all_tasks()) == 1
        return is_done

    retry, hedge = Retry(draw=lambda: 0.0), Hedge(min_delay=0.0005, min_calls=1)
    budget = Budget(1.0, clock=LoopClock())
    settings = {"retry": retry, "hedge": hedge, "budget": budget}
    return bool(play(script, main, limit=limit, breaker=breaker, **settings))


@pytest.mark.parametrize("statuses", [(503, 200), (200, 200, 503)])
def test_fan_out_cancelled_at_each_of_its_ticks_gives_everything_back(
    statuses: Sequence[int],
) -> None:
    turns = 0
    while not is_done_after(turns, statuses):
        turns += 1
        assert turns < 500
    assert turns > 10
