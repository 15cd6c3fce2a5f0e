"""The pool: a bounded wait, in order of arrival, that loses no connection."""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from stormproof._core import events
from stormproof._core.deadline import Deadline, in_force
from stormproof._core.lifecycle import Lifecycle
from stormproof.database import Database
from stormproof.database._gate import Gate
from stormproof.errors import DeadlineExceeded, PoolTimeout

from .model import count


@asynccontextmanager
async def all_held(database: Database) -> AsyncIterator[None]:
    """Both connections of the pool are in use inside the block."""
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await count(await stack.enter_async_context(database.read_session()))
        yield


async def test_a_full_pool_says_so_in_time(database: Database, lifecycle: Lifecycle) -> None:
    seen: list[events.Event] = []
    lifecycle.events.subscribe(seen.append)
    async with all_held(database):
        began_at = time.monotonic()
        with pytest.raises(PoolTimeout) as caught:
            async with database.session() as session:
                await count(session)
        assert 0.15 < time.monotonic() - began_at < 1
        statistics = database.statistics()
        assert (statistics.in_use, statistics.overflow, statistics.timeouts) == (2, 1, 1)
    assert re.search(r"2 of 2 in use, waited 0\.\d\d s", str(caught.value))
    assert (caught.value.status, caught.value.retry_after) == (503, 1)
    assert [type(one) for one in seen] == [events.PoolWaitExpired]


async def test_the_deadline_ends_the_wait_first_when_it_is_nearer(database: Database) -> None:
    async with all_held(database):
        with in_force(Deadline(time.monotonic() + 0.02)), pytest.raises(DeadlineExceeded):
            async with database.session() as session:
                await count(session)


async def test_a_waiter_gets_the_connection_that_comes_back(database: Database) -> None:
    async def work() -> int:
        async with database.read_session() as session:
            return await count(session)

    async with all_held(database):
        waiter = asyncio.create_task(work())
        while database.statistics().waiting == 0:
            await asyncio.sleep(0)
    assert await waiter == 0


async def test_engine_users_wait_at_the_same_gate(database: Database) -> None:
    async with all_held(database):
        with pytest.raises(PoolTimeout):
            async with database.engine.connect():
                pass


async def test_a_drain_waits_for_the_connections_in_use(database: Database) -> None:
    async with AsyncExitStack() as stack:
        await count(await stack.enter_async_context(database.read_session()))
        drain = asyncio.create_task(database.drain(time.monotonic() + 10))
        await asyncio.sleep(0)
        assert not drain.done()
    assert await drain == []


async def test_a_drain_names_the_connections_that_did_not_come_back(database: Database) -> None:
    async with database.read_session() as session:
        await count(session)
        losses = await database.drain(time.monotonic() + 0.02)
    assert [(loss.kind, loss.name) for loss in losses] == [("part", "database")]
    assert losses[0].age > 0
    assert "taken by" in losses[0].detail


async def test_a_connection_that_comes_back_after_the_close_is_closed(url: str) -> None:
    database = Database(url)
    await database.open(Lifecycle())
    async with database.engine.connect():
        await database.close()
    assert database.statistics().in_use == 0  # the leak guard of the tests looks at its socket


async def test_a_gate_serves_in_the_order_of_arrival() -> None:
    gate = Gate(1, max_wait=10, what="a test", advice="wait", on_timeout=lambda _: None)
    order: list[int] = []

    async def enter(number: int) -> None:
        await gate.acquire()
        order.append(number)
        gate.release()

    await gate.acquire()
    waiters = [asyncio.create_task(enter(number)) for number in range(5)]
    await asyncio.sleep(0)
    gate.release()
    await enter(5)
    await asyncio.gather(*waiters)
    assert order == [0, 1, 2, 3, 4, 5]


async def test_a_gate_without_wait_refuses_at_once() -> None:
    gate = Gate(1, max_wait=0, what="a test", advice="wait", on_timeout=lambda _: None)
    await gate.acquire()
    with pytest.raises(PoolTimeout):
        await gate.acquire()
    assert (gate.in_use, gate.waiting) == (1, 0)


@pytest.mark.parametrize("seed", range(20))
async def test_a_gate_loses_no_place_under_random_cancellations(seed: int) -> None:
    chance = random.Random(seed)
    gate = Gate(3, max_wait=0.002, what="a test", advice="wait", on_timeout=lambda _: None)

    async def enter() -> None:
        await gate.acquire()
        assert gate.in_use <= gate.capacity
        try:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        finally:
            gate.release()

    tasks = [asyncio.create_task(enter()) for _ in range(100)]
    for task in chance.sample(tasks, 50):
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (gate.in_use, gate.waiting) == (0, 0)
    await gate.emptied()
