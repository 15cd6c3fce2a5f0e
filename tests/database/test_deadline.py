"""PostgreSQL ends a statement itself, slightly before the deadline, and keeps the connection."""

# ruff: noqa: PT012  # what must raise here is a whole block: a unit of work

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from anyio import to_thread
from sqlalchemy import TextClause, event, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import Pool

from stormproof._core.deadline import Deadline, in_force
from stormproof.database import Database
from stormproof.database._statement_timeout import statement_timeout_ms
from stormproof.errors import CommitFailed, DeadlineExceeded

from .model import Item, Model, is_sqlite, names

SHOW = text("SELECT current_setting('statement_timeout')::interval")
PID = text("SELECT pg_backend_pid()")
SLOW = text("SELECT pg_sleep(20)")
IS_ASLEEP = text(
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND wait_event = 'PgSleep'"
)

Unit = Callable[[], AbstractAsyncContextManager[Callable[[TextClause], Awaitable[Any]]]]


@pytest.fixture(params=["asyncpg", "psycopg", "threads"])
def way(request: pytest.FixtureRequest) -> str:
    """By which driver the server is asked: two async ones, and psycopg in threads."""
    return str(request.param)


@pytest.fixture
async def postgres(way: str, postgres_database: str) -> AsyncIterator[Database]:
    url = postgres_database.replace("+asyncpg", "+psycopg" if way == "psycopg" else "+asyncpg")
    database = Database(url, pool_size=3, max_overflow=0, max_wait=10)
    async with database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Model.metadata.create_all)
        yield database
        assert database.statistics().in_use == 0


@pytest.fixture
def unit(way: str, postgres: Database) -> Unit:
    """A unit of work; what it yields runs one statement in it and returns its value."""

    @asynccontextmanager
    async def on_the_loop() -> AsyncIterator[Callable[[TextClause], Awaitable[Any]]]:
        async with postgres.session() as session:
            yield session.scalar

    @asynccontextmanager
    async def in_threads() -> AsyncIterator[Callable[[TextClause], Awaitable[Any]]]:
        async with postgres.sync_session() as session:
            yield lambda statement: to_thread.run_sync(session.scalar, statement)

    return in_threads if way == "threads" else on_the_loop


def within(seconds: float) -> in_force:
    return in_force(Deadline(time.monotonic() + seconds))


@pytest.fixture
async def impatient_database(postgres: Database) -> AsyncIterator[None]:
    """The database's own `statement_timeout` is 700 ms, for connections made from here on."""
    name = postgres.engine.url.database

    async def alter(setting: str) -> None:
        async with postgres.session() as session:
            await session.execute(text(f'ALTER DATABASE "{name}" {setting}'))
        await postgres.engine.dispose()

    await alter("SET statement_timeout = 700")
    yield
    await alter("RESET statement_timeout")


@pytest.fixture
def connected(postgres: Database) -> Iterator[list[object]]:
    """Grows with each connection that is made, by any pool."""
    connections: list[object] = []

    def note(raw: object, _: object) -> None:
        connections.append(raw)

    event.listen(Pool, "connect", note)
    yield connections
    event.remove(Pool, "connect", note)


@pytest.mark.parametrize(
    ("left", "expected"), [(30, 29_900), (1, 900), (0.3, 250), (0.1, 70), (0.01, 1), (-1, 1)]
)
def test_the_timeout_leaves_time_for_the_answer(left: float, expected: int) -> None:
    assert statement_timeout_ms(left) == pytest.approx(expected, abs=1)


async def test_a_statement_gets_slightly_less_than_what_remains(unit: Unit) -> None:
    async with unit() as scalar:
        assert (await scalar(SHOW)).total_seconds() == 0
    with within(10):
        async with unit() as scalar:
            assert 8 < (await scalar(SHOW)).total_seconds() <= 9.9
    async with unit() as scalar:
        assert (await scalar(SHOW)).total_seconds() == 0


async def test_a_reader_gets_it_too_and_stays_one(postgres: Database) -> None:
    with within(10):
        async with postgres.read_session() as session:
            assert 8 < (await session.scalar(SHOW)).total_seconds() <= 9.9
            assert await session.scalar(text("SHOW transaction_read_only")) == "on"


async def test_rows_that_are_sent_at_once_get_it_too(postgres: Database) -> None:
    """psycopg sends many rows as a pipeline, in which a message has one command."""
    with within(10):
        async with postgres.session() as session:
            await session.execute(
                text("INSERT INTO items (id, name) VALUES (:id, :name)"),
                [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
            )
            assert 8 < (await session.scalar(SHOW)).total_seconds() <= 9.9
    assert await names(postgres) == ["a", "b"]


async def test_a_later_statement_gets_what_remains_then(unit: Unit) -> None:
    deadline = Deadline(time.monotonic() + 60)
    with in_force(deadline):
        async with unit() as scalar:
            assert (await scalar(SHOW)).total_seconds() > 50
            deadline.shorten(time.monotonic() + 5)
            assert 3 < (await scalar(SHOW)).total_seconds() < 5


async def test_a_shorter_timeout_of_the_transaction_stays(unit: Unit) -> None:
    deadline = Deadline(time.monotonic() + 60)
    with in_force(deadline):
        async with unit() as scalar:
            await scalar(text("SELECT set_config('statement_timeout', '1500ms', true)"))
            deadline.shorten(time.monotonic() + 5)
            assert (await scalar(SHOW)).total_seconds() == 1.5


async def test_a_shorter_timeout_of_the_database_stays(
    unit: Unit, impatient_database: None
) -> None:
    with within(30):
        async with unit() as scalar:
            assert (await scalar(SHOW)).total_seconds() == 0.7


async def test_the_deadline_ends_a_statement_and_keeps_the_connection(unit: Unit) -> None:
    async with unit() as scalar:
        before = await scalar(PID)
    with within(1.5), pytest.raises(DeadlineExceeded, match="during a statement"):
        async with unit() as scalar:
            await scalar(SLOW)
    async with unit() as scalar:
        assert await scalar(PID) == before


async def test_a_deadline_that_is_shortened_later_keeps_the_connection(unit: Unit) -> None:
    deadline = Deadline(time.monotonic() + 60)
    with in_force(deadline), pytest.raises(DeadlineExceeded, match="during a statement"):
        async with unit() as scalar:
            before = await scalar(PID)
            deadline.shorten(time.monotonic() + 1)
            await scalar(SLOW)
    async with unit() as scalar:
        assert await scalar(PID) == before


async def test_an_answer_that_came_while_the_loop_was_busy_keeps_the_connection(
    unit: Unit, postgres: Database
) -> None:
    """The timer is due as well when the loop looks again."""
    deadline = Deadline(time.monotonic() + 1)

    async def keep_the_loop_busy(watcher: AsyncConnection) -> None:
        while not await watcher.scalar(IS_ASLEEP):
            pass
        time.sleep(max(0, deadline.remaining()) + 0.1)

    async with postgres.engine.connect() as watcher, asyncio.TaskGroup() as group:
        await watcher.execution_options(isolation_level="AUTOCOMMIT")
        async with unit() as scalar:
            before = await scalar(PID)
        busy = group.create_task(keep_the_loop_busy(watcher))
        with in_force(deadline), pytest.raises(DeadlineExceeded, match="during a statement"):
            async with unit() as scalar:
                await scalar(SLOW)
        busy.cancel()
        async with unit() as scalar:
            assert await scalar(PID) == before


async def test_tight_deadlines_under_overload_do_not_reconnect(
    unit: Unit, connected: list[object]
) -> None:
    """30 statements are cut, 6 at a time on 3 connections; a busy machine may cut a few late."""

    async def caller() -> None:
        for _ in range(5):
            with within(0.5), pytest.raises(DeadlineExceeded):
                async with unit() as scalar:
                    await scalar(SLOW)

    await asyncio.gather(*(caller() for _ in range(6)))
    assert len(connected) <= 3 + 9


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
