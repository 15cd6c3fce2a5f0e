"""A cancelled unit of work ends soon, loses no connection, and acknowledges nothing untrue."""

# ruff: noqa: PT012  # what must raise here is a whole block: a unit of work

import asyncio
import gc
import random
import time
from pathlib import Path

import pytest
from sqlalchemy import event, select, text

from stormproof._core.deadline import Deadline, in_force
from stormproof.database import Database
from stormproof.errors import DeadlineExceeded
from tests.harness import until

from .model import Item, Model, count, names, run_slow

SOON = 3.0  # seconds; the statements that are cut would take twenty


def statement_started(database: Database) -> asyncio.Event:
    """An event that is set when the next statement is about to be sent."""
    started = asyncio.Event()

    def start(*_: object) -> None:
        started.set()

    event.listen(database.engine.sync_engine, "before_cursor_execute", start, once=True)
    return started


async def test_a_cancelled_statement_ends_soon_and_the_pool_works_on(database: Database) -> None:
    async def work() -> None:
        async with database.session() as session:
            await run_slow(session, database)

    for _ in range(3):
        started = statement_started(database)
        task = asyncio.create_task(work())
        await started.wait()
        await asyncio.sleep(0.02)  # into the statement itself
        began_at = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began_at < SOON
        assert database.statistics().in_use == 0
    async with database.session() as session:
        assert await count(session) == 0


async def test_a_statement_cancelled_at_any_tick_ends_soon(database: Database) -> None:
    async def work() -> None:
        async with database.session() as session:
            await run_slow(session, database)

    for ticks in range(12):
        task = asyncio.create_task(work())
        for _ in range(ticks):
            await asyncio.sleep(0)
        began_at = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began_at < SOON
        assert database.statistics().in_use == 0


async def test_a_timeout_around_a_statement_ends_it_soon(database: Database) -> None:
    began_at = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), database.session() as session:
            await run_slow(session, database)
    assert time.monotonic() - began_at < SOON


async def test_the_deadline_ends_a_statement_without_any_middleware(database: Database) -> None:
    began_at = time.monotonic()
    with in_force(Deadline(began_at + 0.1)), pytest.raises(DeadlineExceeded):
        async with database.session() as session:
            await run_slow(session, database)
    assert time.monotonic() - began_at < SOON


async def test_a_statement_cancelled_again_and_again_loses_no_connection(
    database: Database,
) -> None:
    async def work() -> None:
        async with database.session() as session:
            session.add(Item(name="a"))
            await session.flush()
            await run_slow(session, database)

    task = asyncio.create_task(work())
    await statement_started(database).wait()
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()
    await until(lambda: database.statistics().in_use == 0)
    assert await names(database) == []


async def test_what_was_acknowledged_is_stored_and_what_was_cut_is_not(url: str) -> None:
    """200 cancellations at random moments; only a cancelled COMMIT may be stored unacknowledged."""
    chance = random.Random(20261123)
    acknowledged: set[str] = set()
    begun_commits: set[str] = set()

    async def work(name: str) -> None:
        async with database.session() as session:
            await count(session)
            session.add(Item(name=name))
            await session.flush()
            event.listen(
                session.sync_session, "before_commit", lambda _: begun_commits.add(name), once=True
            )
        acknowledged.add(name)

    database = Database(url, pool_size=3, max_overflow=2, max_wait=30)
    async with database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Model.metadata.create_all)
        tasks = [asyncio.create_task(work(f"n{number:03}")) for number in range(400)]
        for task in chance.sample(tasks, 200):
            await asyncio.sleep(chance.random() * 0.004)
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(one) for one in outcomes} <= {type(None), asyncio.CancelledError}
        stored = set(await names(database))
        assert database.statistics().in_use == 0
        assert acknowledged <= stored
        assert stored <= acknowledged | begun_commits
        assert len(acknowledged) >= 200


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
async def test_a_connect_cancelled_at_any_tick_leaves_no_error_that_nobody_waits_for(
    url: str,
) -> None:
    """asyncpg's own first step left one, and the log told of it."""
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    async def work() -> None:
        async with database.session() as session:
            await session.execute(text("SELECT 1"))

    database = Database(url, unready_after=None)
    async with database:
        for ticks in range(40):
            await database.engine.dispose()
            task = asyncio.create_task(work())
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))
    gc.collect()
    assert told == []


async def test_a_cancelled_wait_for_the_writer_gives_its_place_back(tmp_path: Path) -> None:
    async def work() -> None:
        async with database.session() as session:
            await count(session)

    database = Database(f"sqlite:///{tmp_path}/test.db", max_wait=10)
    async with database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Model.metadata.create_all)
        async with database.session() as first:
            await count(first)
            waiters = [asyncio.create_task(work()) for _ in range(5)]
            while database.statistics().waiting < 5:
                await asyncio.sleep(0)
            for waiter in waiters[:4]:
                waiter.cancel()
        await waiters[4]
        await asyncio.gather(*waiters, return_exceptions=True)
        statistics = database.statistics()
        assert (statistics.in_use, statistics.waiting) == (0, 0)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # asyncpg cancels by itself
async def test_a_stream_of_rows_can_be_cancelled(database: Database) -> None:
    endless = text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    )
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), database.read_session() as session:
            async for _ in await session.stream(endless):
                pass
    async with database.read_session() as session:
        assert (await session.scalars(select(Item))).all() == []
