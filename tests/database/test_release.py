"""A connection given back before a slow await; nothing is lost or stored by that."""

import asyncio
import time

import pytest
from sqlalchemy import insert, select, text

from stormproof.database import Database
from stormproof.errors import UncommittedWork

from .model import Item, Model, count, is_sqlite, names


async def test_a_release_gives_the_connection_back_until_the_next_statement(
    database: Database,
) -> None:
    async with database.session() as session:
        assert await count(session) == 0
        assert database.statistics().in_use == 1
        await session.release()
        assert database.statistics().in_use == 0
        session.add(Item(name="a"))
        await session.flush()
        assert database.statistics().in_use == 1
    assert await names(database) == ["a"]


async def test_a_reader_gives_its_connection_back_too(database: Database) -> None:
    async with database.read_session() as session:
        assert await count(session) == 0
        await session.release()
        assert database.statistics().in_use == 0
        assert await count(session) == 0


async def test_what_was_loaded_stays_usable(database: Database) -> None:
    async with database.session() as session:
        session.add(Item(name="a"))
    async with database.session() as session:
        item = (await session.scalars(select(Item))).one()
        await session.release()
        assert (item.id, item.name) == (1, "a")
        item.name = "b"
    assert await names(database) == ["b"]


async def test_a_release_without_a_connection_does_nothing(database: Database) -> None:
    async with database.session() as session:
        await session.release()
        await session.release()
        session.add(Item(name="a"))
        await session.commit()
        await session.release()
    assert await names(database) == ["a"]


@pytest.mark.parametrize("change", ["planned", "flushed", "core", "text", "schema", "edited"])
async def test_a_release_with_changes_is_refused_and_the_work_goes_on(
    database: Database, change: str
) -> None:
    async with database.session() as session:
        session.add(Item(name="first"))
    async with database.session() as session:
        if change == "planned":
            session.add(Item(name="a"))
        elif change == "flushed":
            session.add(Item(name="a"))
            await session.flush()
        elif change == "core":
            await session.execute(insert(Item).values(name="a"))
        elif change == "text":
            await session.execute(text("INSERT INTO items (name) VALUES ('a')"))
        elif change == "schema":
            await session.execute(text("CREATE TABLE made (id INTEGER PRIMARY KEY)"))
            session.add(Item(name="a"))
        else:
            (await session.scalars(select(Item))).one().name = "a"
        with pytest.raises(UncommittedWork, match=r"commit\(\)` before"):
            await session.release()
    assert "a" in await names(database)


async def test_an_open_savepoint_refuses_a_release(database: Database) -> None:
    async with database.session() as session, session.begin_nested():
        with pytest.raises(UncommittedWork):
            await session.release()


async def test_a_row_lock_is_not_given_away_unseen(database: Database) -> None:
    if is_sqlite(database):
        return  # it has none
    async with database.session() as session:
        session.add(Item(name="a"))
    async with database.session() as session:
        await session.scalars(select(Item).with_for_update())
        with pytest.raises(UncommittedWork, match="row locks"):
            await session.release()


async def test_two_connections_serve_twenty_callers_who_wait_for_something_else(url: str) -> None:
    """Each reads, waits until all others have read, and reads again."""
    arrived = 0
    everybody = asyncio.Event()

    async def work() -> None:
        nonlocal arrived
        async with database.session() as session:
            await count(session)
            await session.release()
            arrived += 1
            if arrived == 20:
                everybody.set()
            await everybody.wait()
            await count(session)

    database = Database(url, pool_size=1, max_overflow=1, max_wait=20)
    async with database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Model.metadata.create_all)
        began_at = time.monotonic()
        await asyncio.gather(*(work() for _ in range(20)))
        assert time.monotonic() - began_at < 15
        assert database.statistics().in_use == 0
