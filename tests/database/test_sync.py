"""Sync units of work keep the promises of the async ones, and their waits hold no thread."""

# ruff: noqa: PT012  # what must raise here is a whole block: a unit of work

import asyncio
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Annotated, Any, TypeVar

import httpx2
import pytest
from anyio import CapacityLimiter, to_thread
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

import stormproof
from stormproof._core.deadline import Deadline, in_force
from stormproof.database import Database, SyncSession
from stormproof.errors import (
    CommitFailed,
    ConstraintFailed,
    DeadlineExceeded,
    NotStarted,
    PoolTimeout,
    SessionClosed,
    SessionShared,
)
from tests.harness import until
from tests.harness.client import drop_all_that_comes

from .model import _ENDLESS, Item, Tag, count, is_sqlite, names

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """Run it in a thread that no limiter counts."""
    return await to_thread.run_sync(work, limiter=CapacityLimiter(1))


def run_slow(session: SyncSession, database: Database) -> None:
    session.execute(_ENDLESS if is_sqlite(database) else text("SELECT pg_sleep(20)"))


async def test_work_is_stored_when_the_block_ends(database: Database) -> None:
    async with database.sync_session() as session:
        await in_thread(lambda: session.add(Item(name="a")))
        assert database.statistics().in_use == 1
    assert database.statistics().in_use == 0
    assert await names(database) == ["a"]


async def test_nothing_is_stored_when_the_block_raises(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with database.sync_session() as session:
            await in_thread(lambda: session.execute(text("INSERT INTO items VALUES (1, 'a')")))
            raise ZeroDivisionError
    assert database.statistics().in_use == 0
    assert await names(database) == []


async def test_a_unit_without_work_takes_no_connection(database: Database) -> None:
    async with database.sync_session():
        assert database.statistics().in_use == 1
    async with database.sync_session() as session:
        session.rollback()
    assert database.statistics().in_use == 0


async def test_a_constraint_that_fails_at_the_commit_is_an_error(database: Database) -> None:
    for _ in range(3):
        with pytest.raises(ConstraintFailed, match="nothing of this unit of work is stored"):
            async with database.sync_session() as session:
                session.add(Tag(item_id=99))
                await in_thread(session.flush)
    async with database.sync_session() as session:
        session.add(Item(name="a"))
    assert await names(database) == ["a"]


async def test_a_block_that_swallows_a_failed_statement_cannot_commit(database: Database) -> None:
    def work() -> None:
        session.execute(text("INSERT INTO items VALUES (1, 'a')"))
        with suppress(DBAPIError):
            session.connection().exec_driver_sql("SELECT nonsense")

    if is_sqlite(database):
        return  # it undoes the statement alone
    with pytest.raises(CommitFailed):
        async with database.sync_session() as session:
            await in_thread(work)
    assert await names(database) == []


async def test_a_middle_commit_and_a_begin_block_work(database: Database) -> None:
    def work() -> None:
        session.add(Item(name="a"))
        session.commit()
        with session.begin():
            session.add(Item(name="b"))
        with pytest.raises(ZeroDivisionError), session.begin():
            session.add(Item(name="c"))
            session.flush()
            raise ZeroDivisionError
        with pytest.raises(IntegrityError), session.begin_nested():
            session.add(Item(name="a"))
            session.flush()
        session.add(Item(name="d"))

    async with database.sync_session() as session:
        await in_thread(work)
    assert await names(database) == ["a", "b", "d"]


async def test_an_ended_session_cannot_be_used(database: Database) -> None:
    async with database.sync_session() as session:
        await in_thread(lambda: session.execute(text("SELECT 1")))
    uses: list[Callable[[], Any]] = [
        lambda: session.execute(text("SELECT 1")),
        lambda: session.scalars(select(Item)),
        lambda: session.get(Item, 1),
        lambda: session.query(Item).all(),
        lambda: session.add(Item(name="lost")),
        session.begin,
        session.connection,
        session.commit,
        session.rollback,
    ]
    for use in uses:
        with pytest.raises(SessionClosed):
            use()


async def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(DBAPIError, match=r"(?i)read-?\s?only"):
        async with database.sync_read_session() as session:
            session.add(Item(name="a"))
    assert await names(database) == []


async def test_sync_and_async_units_share_the_places(database: Database) -> None:
    async with database.sync_read_session() as first:
        await in_thread(lambda: first.execute(text("SELECT 1")))
        async with database.read_session() as second:
            await count(second)
            with pytest.raises(PoolTimeout, match="2 of 2 in use"):
                async with database.sync_read_session():
                    pass
    assert database.statistics().in_use == 0


async def test_two_threads_at_once_on_one_session_are_refused(database: Database) -> None:
    entered = threading.Event()

    def first() -> None:
        session.execute(text("SELECT 1"))
        with session._turn():
            entered.set()
            left.wait(30)

    left = threading.Event()
    async with database.sync_session() as session:
        task = asyncio.create_task(in_thread(first))
        await until(entered.is_set)
        with pytest.raises(SessionShared):
            session.execute(text("SELECT 1"))
        left.set()
        await task


async def test_the_deadline_cuts_a_statement(database: Database) -> None:
    began_at = time.monotonic()
    with in_force(Deadline(began_at + 0.2)), pytest.raises(DeadlineExceeded):
        async with database.sync_session() as session:
            await in_thread(lambda: run_slow(session, database))
    assert time.monotonic() - began_at < 5
    assert database.statistics().in_use == 0
    async with database.sync_session() as session:
        assert await in_thread(lambda: session.scalar(select(func.count(Item.id)))) == 0


async def test_a_deadline_that_is_shortened_later_cuts_a_statement(database: Database) -> None:
    deadline = Deadline(time.monotonic() + 60)
    with in_force(deadline), pytest.raises(DeadlineExceeded):
        async with database.sync_session() as session:
            await in_thread(lambda: session.execute(text("SELECT 1")))
            deadline.shorten(time.monotonic() + 0.2)
            await in_thread(lambda: run_slow(session, database))


async def test_nothing_is_committed_after_the_deadline(database: Database) -> None:
    deadline = Deadline(time.monotonic() + 60)
    with in_force(deadline), pytest.raises(DeadlineExceeded):
        async with database.sync_session() as session:
            session.add(Item(name="a"))
            await in_thread(session.flush)
            deadline.shorten(time.monotonic())
    assert await names(database) == []


async def test_a_cancelled_unit_cuts_its_statement_and_gives_the_place_back(
    database: Database,
) -> None:
    entered = threading.Event()

    def work(session: SyncSession) -> None:
        session.add(Item(name="a"))
        session.flush()
        entered.set()
        run_slow(session, database)

    async def unit() -> None:
        async with database.sync_session() as session:
            await in_thread(lambda: work(session))

    task = asyncio.create_task(unit())
    await until(entered.is_set)
    task.cancel()
    began_at = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began_at < 5
    assert database.statistics().in_use == 0
    assert await names(database) == []


async def test_a_connection_that_was_asked_to_cancel_has_no_next_user(database: Database) -> None:
    """PostgreSQL may hear of the request late, and would cut the next one's statement."""
    if is_sqlite(database):
        return  # its interrupt is a call and not a request
    asleep = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid AND wait_event = :event")
    pids: list[int] = []

    def work(session: SyncSession, *, is_slow: bool) -> None:
        pids.append(session.execute(text("SELECT pg_backend_pid()")).scalar_one())
        if is_slow:
            run_slow(session, database)

    async def unit(*, is_slow: bool = False) -> None:
        async with database.sync_session() as session:
            await in_thread(lambda: work(session, is_slow=is_slow))

    await unit()
    task = asyncio.create_task(unit(is_slow=True))
    async with database.autocommit() as watcher:
        while not await watcher.scalar(asleep, {"pid": pids[0], "event": "PgSleep"}):
            pass
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await unit()
    assert pids[0] == pids[1] != pids[2]


@pytest.mark.storm
async def test_a_network_that_went_silent_holds_a_thread_for_seconds_only(
    postgres_database: str,
) -> None:
    """The ping of an idle connection can be cut by nobody; its socket has to give up by itself."""

    def descriptor(session: SyncSession) -> int:
        connection: Any = session.connection().connection.dbapi_connection
        return int(connection.fileno())

    async with Database(postgres_database, pool_size=1, max_overflow=0) as database:
        async with database.sync_session() as session:
            end = socket.socket(fileno=os.dup(await in_thread(lambda: descriptor(session))))
        with end:
            drop_all_that_comes(end)
            async with asyncio.timeout(60), database.sync_session() as session:
                assert await in_thread(lambda: session.scalar(text("SELECT 1"))) == 1


async def test_cancelled_at_any_step_no_place_is_lost(database: Database) -> None:
    async def unit() -> None:
        async with database.sync_session() as session:
            await in_thread(lambda: session.execute(text("SELECT 1")))

    for steps in range(12):
        tasks = [asyncio.create_task(unit()) for _ in range(4)]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: database.statistics().in_use == 0)
    assert database.statistics().waiting == 0


async def test_a_closed_database_says_so(url: str) -> None:
    with pytest.raises(NotStarted):
        async with Database(url).sync_session():
            pass


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx2.AsyncClient]:
    """The shape of the template: an auth dependency and the endpoint share a session."""
    database = Database(url, pool_size=3, max_overflow=2, max_wait=30)
    app = FastAPI()
    stormproof.install(app, database)
    Writer = Annotated[SyncSession, stormproof.sync_session(database)]
    Again = Annotated[SyncSession, stormproof.sync_session(database)]

    def current(session: Again) -> str:
        return str(session.execute(text("SELECT 'ada'")).scalar_one())

    @app.post("/items")
    def create(name: str, session: Writer, user: Annotated[str, Depends(current)]) -> str:
        session.add(Item(name=name))
        session.flush()
        if name == "teapot":
            raise HTTPException(418)
        return f"{user}: {database.statistics().in_use}"

    @app.post("/tags")
    def tag(session: Writer) -> bool:
        session.add(Tag(item_id=99))
        return True

    @app.get("/slow", dependencies=[stormproof.route_deadline(0.2)])
    def slow(session: Annotated[SyncSession, stormproof.sync_read_session(database)]) -> None:
        run_slow(session, database)

    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        async with database.engine.begin() as connection:
            await connection.run_sync(Item.metadata.create_all)
        client.database = database  # type: ignore[attr-defined]
        yield client
        await until(lambda: database.statistics().in_use == 0)


async def test_an_endpoint_and_its_dependencies_share_one_committed_session(
    client: httpx2.AsyncClient,
) -> None:
    assert (await client.post("/items?name=a")).json() == "ada: 1"
    assert (await client.post("/items?name=teapot")).status_code == 418
    assert (await client.post("/items?name=a")).status_code == 500
    answer = await client.post("/tags")
    assert (answer.status_code, answer.json()["code"]) == (409, "SP409")
    assert await names(client.database) == ["a"]  # type: ignore[attr-defined]


async def test_a_slow_statement_of_an_endpoint_ends_at_the_deadline(
    client: httpx2.AsyncClient,
) -> None:
    began_at = time.monotonic()
    assert (await client.get("/slow")).status_code == 504
    assert time.monotonic() - began_at < 5


async def test_a_hundred_callers_on_a_pool_of_five_are_all_served(
    client: httpx2.AsyncClient,
) -> None:
    """Without the door on the loop, the threads that wait keep those that hold from running."""
    answers = await asyncio.gather(*(client.post(f"/items?name={i}") for i in range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(await names(client.database)) == 100  # type: ignore[attr-defined]
