"""A request that waits for something else in its middle holds no connection meanwhile."""

import asyncio
import json
from contextlib import suppress

import pytest

from tests.harness import until

from .database_service import OURS, POST, Service, loaded

POOL = 5
CALLERS = 20


async def check_callers_wait_without_a_connection(service: Service) -> None:
    async def asking() -> int:
        return int(json.loads((await service.get("/asking")).body))

    calls = [asyncio.create_task(service.post("/ask", timeout=60.0)) for _ in range(CALLERS)]
    seen: list[int] = []

    async def are_all_asking() -> bool:
        seen.append(await asking())
        return seen[-1] == CALLERS

    try:
        with suppress(TimeoutError):
            await until(are_all_asking, timeout=service.patience)
        assert (await service.pool())["in_use"] == 0, f"only {seen[-1]} callers got so far"
        assert seen[-1] == CALLERS
    finally:
        await service.post("/gate")
        answers = await asyncio.gather(*calls)
    assert [answer.status for answer in answers] == [200] * CALLERS


async def test_callers_that_wait_for_an_upstream_hold_no_connection(database_url: str) -> None:
    """`release()` before the wait: all of them wait at the same time, with a pool of five."""
    async with loaded(OURS, database_url, pool_size=POOL) as service:
        await check_callers_wait_without_a_connection(service)


async def test_seeds_callers_that_wait_for_an_upstream_empty_the_pool(database_url: str) -> None:
    """Five of them hold the five connections, and the others cannot even begin."""
    async with loaded(POST, database_url, pool_size=POOL) as service:
        with pytest.raises(AssertionError, match="only 5 callers got so far"):
            await check_callers_wait_without_a_connection(service)
