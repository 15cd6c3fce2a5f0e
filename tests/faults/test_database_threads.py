"""A burst larger than the pool is answered: with the result, or with 503 and Retry-After."""

import asyncio
from collections import Counter

import pytest

from tests.harness import Answer

from .database_service import OURS, POST, Service, served

CALLERS = 100


async def check_burst_is_answered(service: Service) -> None:
    """100 callers at once on a pool of five."""
    burst = asyncio.gather(*(service.get("/report", timeout=15.0) for _ in range(CALLERS)))
    health = []
    while not burst.done():
        health.append((await service.get("/readyz")).status)
    answers: list[Answer] = await burst
    statuses = Counter(answer.status for answer in answers)
    assert statuses[500] == 0, f"500 while /readyz said {set(health)}"
    assert set(statuses) <= {200, 503}
    assert statuses[200] > 0
    assert all("retry-after" in answer.headers for answer in answers if answer.status == 503)
    assert max(answer.elapsed for answer in answers) < 10
    assert await service.settled("in_use", 0) == 0


async def test_seed_collapses_when_its_threads_outnumber_the_pool(sqlite_url: str) -> None:
    """Threads that wait for a connection keep those that would give one back from running."""
    async with served(POST, sqlite_url) as service:
        with pytest.raises(AssertionError, match=r"500 while /readyz said \{200\}"):
            await check_burst_is_answered(service)


async def test_burst_on_a_small_pool_is_answered(sqlite_url: str) -> None:
    """The wait for a connection is bounded and holds no thread."""
    async with served(OURS, sqlite_url) as service:
        await check_burst_is_answered(service)
