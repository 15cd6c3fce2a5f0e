"""A limit, retries, hedges and a circuit breaker at once, on sockets, with callers who leave."""

import asyncio
import contextlib
import random

import pytest

from stormproof.errors import StormproofError
from stormproof.limit import Limiter
from stormproof.upstream import Budget, CircuitBreaker, Hedge, Retry, Upstream
from stormproof.upstream._aiohttp import AiohttpTransport
from tests.harness import until

from .servers import Peer


@pytest.mark.parametrize("is_aiohttp", [False, True])
async def test_random_cancels_lose_no_slot_no_connection_and_no_task(
    server: Peer, is_aiohttp: bool
) -> None:
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

    async def call(path: str) -> None:
        task = asyncio.create_task(upstream.get(path))
        for _ in range(generator.randrange(0, 80)):
            await asyncio.sleep(0)
        if generator.random() < 0.5:
            await asyncio.sleep(generator.random() * 0.03)
        if generator.random() < 0.8:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, StormproofError):
            await task

    async with upstream:
        for _ in range(8):
            paths = (generator.choice(["/ok", "/hang", "/503", "/closed"]) for _ in range(8))
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
