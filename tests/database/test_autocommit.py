"""An autocommit session: each statement is committed, and no connection is held in between."""

# ruff: noqa: PT012  # what must raise here is a whole block: a unit of work

import asyncio

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import IntegrityError

from stormproof.database import Database
from stormproof.errors import NoTransaction

from .model import Item, count, names


async def test_each_statement_is_stored_and_gives_its_connection_back(database: Database) -> None:
    with pytest.raises(KeyError):
        async with database.autocommit() as session:
            await session.execute(insert(Item).values(name="a"))
            assert database.statistics().in_use == 0
            assert await names(database) == ["a"]
            item = (await session.scalars(select(Item))).one()
            assert database.statistics().in_use == 0
            item.name = "b"
            await session.flush()
            assert await names(database) == ["b"]
            raise KeyError
    assert await names(database) == ["b"]


async def test_what_is_planned_at_the_end_is_stored(database: Database) -> None:
    async with database.autocommit() as session:
        session.add(Item(name="a"))
    assert await names(database) == ["a"]


async def test_a_refused_statement_undoes_only_itself(database: Database) -> None:
    async with database.autocommit() as session:
        await session.execute(insert(Item).values(name="a"))
        with pytest.raises(IntegrityError):
            await session.execute(insert(Item).values(name="a"))
        assert database.statistics().in_use == 0
        await session.execute(insert(Item).values(name="b"))
    assert await names(database) == ["a", "b"]


async def test_callbacks_follow_the_next_statement(database: Database) -> None:
    seen: list[str] = []
    async with database.autocommit() as session:
        session.on_commit(lambda: seen.append("stored"))
        await session.execute(insert(Item).values(name="a"))
        assert seen == ["stored"]


async def test_many_sessions_share_one_connection_over_a_long_time(url: str) -> None:
    everybody = asyncio.Barrier(20)

    async def live_long() -> int | None:
        async with database.autocommit() as session:
            await session.execute(text("SELECT 1"))
            await everybody.wait()
            return await session.scalar(select(func.count()).select_from(Item))

    database = Database(url, pool_size=1, max_overflow=0, max_wait=20)
    async with database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Item.metadata.create_all)
        assert await asyncio.gather(*(live_long() for _ in range(20))) == [0] * 20


async def test_what_would_hold_a_connection_is_refused(database: Database) -> None:
    async with database.autocommit() as session:
        for use in (session.begin, session.begin_nested):
            with pytest.raises(NoTransaction):
                use()
        for ask in (session.connection, lambda: session.stream(select(Item))):
            with pytest.raises(NoTransaction):
                await ask()
        assert await count(session) == 0
