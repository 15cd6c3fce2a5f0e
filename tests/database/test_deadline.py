"""PostgreSQL ends a statement itself, slightly before the deadline, and keeps the connection."""

# ruff: noqa: PT012  # what must raise here is a whole block: a unit of work

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import event, text

from stormproof._core.deadline import Deadline, in_force
from stormproof.database import Database
from stormproof.database._postgres import statement_timeout_ms
from stormproof.errors import CommitFailed, DeadlineExceeded

from .model import Item, Model, count, is_sqlite, names

SHOW = text("SELECT current_setting('statement_timeout')::interval")


@pytest.fixture
async def postgres(postgres_database: str) -> AsyncIterator[Database]:
    database = Database(postgres_database, pool_size=3, max_overflow=0, max_wait=10)
    async with database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Model.metadata.create_all)
        yield database
        assert database.statistics().in_use == 0


def opened(database: Database) -> list[object]:
    """A list that grows with each connection that is opened."""
    connections: list[object] = []
    event.listen(database.engine.sync_engine, "connect", lambda raw, _: connections.append(raw))
    return connections


def within(seconds: float) -> in_force:
    return in_force(Deadline(time.monotonic() + seconds))


@pytest.mark.parametrize(
    ("left", "expected"), [(30, 29_900), (1, 900), (0.3, 250), (0.1, 70), (0.01, 1), (-1, 1)]
)
def test_the_timeout_leaves_time_for_the_answer(left: float, expected: int) -> None:
    assert statement_timeout_ms(left) == pytest.approx(expected, abs=1)


async def test_a_statement_gets_slightly_less_than_what_remains(postgres: Database) -> None:
    async with postgres.session() as session:
        assert (await session.scalar(SHOW)).total_seconds() == 0
    with within(10):
        async with postgres.session() as session:
            assert 8 < (await session.scalar(SHOW)).total_seconds() <= 9.9
        async with postgres.read_session() as session:
            assert 8 < (await session.scalar(SHOW)).total_seconds() <= 9.9
    async with postgres.session() as session:
        assert (await session.scalar(SHOW)).total_seconds() == 0


async def test_a_later_statement_gets_what_remains_then(postgres: Database) -> None:
    deadline = Deadline(time.monotonic() + 60)
    with in_force(deadline):
        async with postgres.session() as session:
            assert (await session.scalar(SHOW)).total_seconds() > 50
            deadline.shorten(time.monotonic() + 5)
            assert 3 < (await session.scalar(SHOW)).total_seconds() < 5


async def test_a_shorter_timeout_of_the_transaction_stays(postgres: Database) -> None:
    deadline = Deadline(time.monotonic() + 60)
    with in_force(deadline):
        async with postgres.session() as session:
            await session.execute(text("SET LOCAL statement_timeout = '1500ms'"))
            deadline.shorten(time.monotonic() + 5)
            assert (await session.scalar(SHOW)).total_seconds() == 1.5


async def test_a_shorter_timeout_of_the_role_stays(postgres_database: str) -> None:
    settings = {"connect_args": {"server_settings": {"statement_timeout": "700"}}}
    async with Database(postgres_database, engine_options=settings) as database:
        with within(30):
            async with database.session() as session:
                assert (await session.scalar(SHOW)).total_seconds() == 0.7


async def test_the_deadline_ends_a_statement_and_keeps_the_connection(postgres: Database) -> None:
    async with postgres.session() as session:
        await count(session)
    connections = opened(postgres)
    with within(1.5), pytest.raises(DeadlineExceeded, match="during a statement"):
        async with postgres.session() as session:
            await session.execute(text("SELECT pg_sleep(20)"))
    async with postgres.session() as session:
        await count(session)
    assert connections == []


async def test_an_answer_that_came_while_the_loop_was_busy_keeps_the_connection(
    postgres: Database,
) -> None:
    """The timer is due as well when the loop looks again."""
    async with postgres.session() as session:
        await count(session)
    connections = opened(postgres)
    with within(0.4), pytest.raises(DeadlineExceeded, match="during a statement"):
        async with postgres.session() as session:
            asyncio.get_running_loop().call_later(0.1, time.sleep, 0.5)
            await session.execute(text("SELECT pg_sleep(20)"))
    async with postgres.session() as session:
        await count(session)
    assert connections == []


async def test_tight_deadlines_under_overload_do_not_reconnect(postgres: Database) -> None:
    """60 statements are cut, 6 at a time on 3 connections; a busy machine may cut a few late."""

    async def caller() -> None:
        for _ in range(10):
            with within(0.5), pytest.raises(DeadlineExceeded):
                async with postgres.session() as session:
                    await session.execute(text("SELECT pg_sleep(20)"))

    connections = opened(postgres)
    await asyncio.gather(*(caller() for _ in range(6)))
    assert len(connections) <= 3 + 20


async def test_a_commit_that_the_server_turned_into_a_rollback_is_an_error(
    database: Database,
) -> None:
    """PostgreSQL answers the COMMIT of a failed transaction with ROLLBACK, and without an error."""
    broken = "INSERT OR ROLLBACK INTO items (id, name) VALUES (1, 'b')"
    if not is_sqlite(database):
        broken = "SELECT 1 / 0"
    with pytest.raises(CommitFailed, match="rolled everything back"):
        async with database.session() as session:
            session.add(Item(id=1, name="a"))
            await session.flush()
            with pytest.raises(Exception, match=r"division|UNIQUE"):
                await session.execute(text(broken))
    assert await names(database) == []
    async with database.session() as session:
        session.add(Item(id=1, name="c"))
    assert await names(database) == ["c"]
