"""A unit of work that another transaction was in the way of is run again as a whole."""

import asyncio
import inspect
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from stormproof._core import events
from stormproof._core.deadline import Deadline, in_force
from stormproof._core.lifecycle import Lifecycle
from stormproof.database import Database, DatabaseSession
from stormproof.errors import InvalidSetting, PoolTimeout, TransactionConflict

from .model import Item, Model, names


@pytest.fixture
async def serializable(postgres_database: str, lifecycle: Lifecycle) -> AsyncIterator[Database]:
    database = Database(
        postgres_database,
        max_wait=20,
        unready_after=None,
        engine_options={"isolation_level": "SERIALIZABLE"},
    )
    await database.open(lifecycle)
    async with database.engine.begin() as connection:
        await connection.run_sync(Model.metadata.create_all)
    async with database.session() as session:
        session.add(Item(id=1, name="0"))
    yield database
    assert database.statistics().in_use == 0
    await database.close()


async def add_one(session: DatabaseSession) -> None:
    item = await session.get_one(Item, 1)
    await asyncio.sleep(0.01)  # so that the others read meanwhile
    item.name = str(int(item.name) + 1)


async def test_serialization_failures_are_repeated_until_all_are_stored(
    serializable: Database, lifecycle: Lifecycle
) -> None:
    told: list[events.Event] = []
    lifecycle.events.subscribe(told.append)
    add = serializable.transaction(retries=50)(add_one)
    await asyncio.gather(*(add() for _ in range(10)))
    assert await names(serializable) == ["10"]
    assert events.TransactionRetried in {type(one) for one in told}


async def test_without_retries_a_conflict_is_told_and_nothing_is_stored(
    serializable: Database,
) -> None:
    add = serializable.transaction(retries=0)(add_one)
    outcomes = await asyncio.gather(*(add() for _ in range(4)), return_exceptions=True)
    conflicts = [one for one in outcomes if isinstance(one, TransactionConflict)]
    assert conflicts
    assert (conflicts[0].status, conflicts[0].retry_after) == (503, 1)
    assert await names(serializable) == [str(4 - len(conflicts))]


async def test_a_deadlock_is_repeated(serializable: Database, lifecycle: Lifecycle) -> None:
    told: list[events.Event] = []
    lifecycle.events.subscribe(told.append)
    async with serializable.session() as session:
        session.add(Item(id=2, name="b"))
    both = asyncio.Barrier(2)
    tries: list[int] = []

    @serializable.transaction(retries=5)
    async def lock(session: DatabaseSession, first: int, second: int) -> int:
        await session.execute(text("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"))
        await session.execute(select(Item).where(Item.id == first).with_for_update())
        tries.append(first)
        if len(tries) <= 2:
            await both.wait()
        await session.execute(select(Item).where(Item.id == second).with_for_update())
        return first

    assert await asyncio.gather(lock(1, 2), lock(2, 1)) == [1, 2]
    assert len(tries) == 3
    assert [type(one) for one in told] == [events.TransactionRetried]


def conflict() -> TransactionConflict:
    return TransactionConflict("another transaction was in the way", retry_after=1)


async def test_a_unit_that_committed_in_its_middle_is_not_repeated(database: Database) -> None:
    calls: list[str] = []

    @database.transaction(retries=3)
    async def work(session: DatabaseSession) -> None:
        calls.append("called")
        session.add(Item(name="a"))
        await session.commit()
        raise conflict()

    with pytest.raises(TransactionConflict):
        await work()
    assert calls == ["called"]
    assert await names(database) == ["a"]


async def test_what_was_undone_is_done_again_and_called_back_once(database: Database) -> None:
    calls: list[str] = []
    called_back: list[str] = []

    @database.transaction(retries=3)
    async def work(session: DatabaseSession, name: str, *, mark: str) -> str:
        calls.append(name)
        session.add(Item(name=name))
        session.on_commit(lambda: called_back.append(mark))
        await session.flush()
        if len(calls) < 3:
            raise conflict()
        return mark

    assert await work("a", mark="m") == "m"
    assert (calls, called_back) == (["a"] * 3, ["m"])
    assert await names(database) == ["a"]


async def test_other_errors_and_a_near_deadline_are_not_repeated(database: Database) -> None:
    calls: list[str] = []

    @database.transaction(retries=1000)
    async def work(session: DatabaseSession, error: Exception) -> None:
        calls.append("called")
        raise error

    with pytest.raises(KeyError):
        await work(KeyError())
    assert len(calls) == 1
    with in_force(Deadline(time.monotonic() + 0.3)), pytest.raises(TransactionConflict):
        await work(conflict())
    assert 2 <= len(calls) < 1000


async def test_a_lock_of_another_process_is_waited_for_again(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/a.db", max_wait=0.05)
    async with database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Model.metadata.create_all)

        @database.transaction(retries=200)
        async def work(session: DatabaseSession) -> None:
            session.add(Item(name="a"))

        other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(PoolTimeout):
            await database.transaction(retries=0)(add_one)()
        task = asyncio.create_task(work())
        while database.statistics().timeouts < 3:
            await asyncio.sleep(0.01)
        other.close()
        await task
        assert await names(database) == ["a"]


async def test_the_signature_is_that_of_the_caller(database: Database) -> None:
    @database.transaction()
    async def work(session: DatabaseSession, name: str, *, mark: int = 1) -> Any:
        """Do it."""

    assert str(inspect.signature(work)) == "(name: str, *, mark: int = 1) -> Any"
    assert work.__doc__ == "Do it."
    with pytest.raises(InvalidSetting, match="retries is -1"):
        database.transaction(retries=-1)
