"""What SQLite needs so that it keeps the same promises as a server."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from stormproof._core.deadline import Deadline, in_force
from stormproof.database import Database
from stormproof.errors import CommitFailed, DeadlineExceeded, PoolTimeout
from tests.harness import until

from .model import Item, Model, Tag, count, names


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite:///{path}", pool_size=4, max_wait=0.1)
    async with database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Model.metadata.create_all)
        yield database
        assert database.statistics().in_use == 0


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "wal"), ("foreign_keys", 1), ("synchronous", 2), ("busy_timeout", 100)],
)
async def test_each_connection_is_set_up(database: Database, pragma: str, value: object) -> None:
    async with database.session() as session:
        assert (await session.execute(text(f"PRAGMA {pragma}"))).scalar_one() == value


async def test_readers_do_not_wait_for_the_writer(database: Database) -> None:
    async with database.session() as writer:
        writer.add(Item(name="a"))
        await writer.flush()
        assert await names(database) == []


async def test_a_second_writer_waits_and_then_gives_up_in_time(database: Database) -> None:
    async with database.session() as writer:
        await count(writer)
        with pytest.raises(PoolTimeout, match="the one writer of SQLite"):
            async with database.session() as second:
                await count(second)


async def test_another_process_that_writes_is_waited_for_in_time(
    database: Database, path: Path
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(PoolTimeout, match="another process kept the write lock"):
            async with database.session() as session:
                await count(session)
        with in_force(Deadline(time.monotonic() + 0.02)), pytest.raises(DeadlineExceeded):
            async with database.session() as session:
                await count(session)
    async with database.session() as session:
        session.add(Item(name="a"))
    assert await names(database) == ["a"]


async def test_a_refused_commit_leaves_no_lock_behind(database: Database) -> None:
    for _ in range(3):
        with pytest.raises(CommitFailed, match="FOREIGN KEY"):
            async with database.session() as session:
                session.add(Tag(item_id=99))
        with pytest.raises(IntegrityError):
            async with database.engine.begin() as connection:
                await connection.execute(Tag.__table__.insert().values(item_id=99))
    async with database.session() as session:
        session.add(Item(name="a"))
    assert await names(database) == ["a"]


async def test_autocommit_connections_work_after_a_reader(path: Path) -> None:
    """A migration needs them: some statements cannot run inside a transaction."""
    database = Database(f"sqlite:///{path}", pool_size=1, max_overflow=0)
    async with database:
        async with database.read_session() as session:
            await session.execute(text("SELECT 1"))
        async with database.engine.connect() as connection:
            plain = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await plain.execute(text("CREATE TABLE t (a)"))
            await plain.execute(text("VACUUM"))
        async with database.session() as session:
            await session.execute(text("INSERT INTO t VALUES (1)"))


async def test_a_connection_that_is_cut_keeps_its_place_until_its_thread_is_over(
    database: Database,
) -> None:
    """SQLite cannot interrupt a function: the thread and its lock outlive the caller."""
    opened = threading.Event()
    entered = threading.Event()

    def hold() -> int:
        entered.set()
        opened.wait(60)
        return 1

    async def work() -> None:
        async with database.session() as session:
            connection = await (await session.connection()).get_raw_connection()
            assert connection.driver_connection is not None
            await connection.driver_connection.create_function("hold", 0, hold)
            await session.execute(text("SELECT hold()"))

    task = asyncio.create_task(work())
    try:
        await until(entered.is_set)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert task.cancelled()
        assert database.statistics().in_use == 1
        with pytest.raises(PoolTimeout):
            async with database.session() as session:
                await count(session)
    finally:
        opened.set()
    await until(lambda: database.statistics().in_use == 0)
    async with database.session() as session:
        assert await count(session) == 0
