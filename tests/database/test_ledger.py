"""The ledger: who holds a connection, who left one idle, and what a request left behind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from stormproof._core import events
from stormproof._core.lifecycle import Lifecycle
from stormproof.database import Database
from tests.harness import until

from .model import Model, count, run_slow


@asynccontextmanager
async def opened(url: str, lifecycle: Lifecycle, **settings: Any) -> AsyncIterator[Database]:
    # Without its watch, whose look takes one of the two for a moment.
    unwatched = {"pool_size": 2, "max_overflow": 0, "unready_after": None}
    database = Database(url, **{**unwatched, **settings})
    await database.open(lifecycle)
    async with database.engine.begin() as connection:
        await connection.run_sync(Model.metadata.create_all)
    try:
        yield database
        await until(lambda: database.statistics().in_use == 0)
    finally:
        await database.close()


def scope(route: str) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": "/raw/7", "route": SimpleNamespace(path=route)}


async def test_a_holder_is_named_with_its_route_and_whether_it_is_idle(
    url: str, lifecycle: Lifecycle
) -> None:
    async with opened(url, lifecycle, trace=True) as database:

        async def work() -> None:
            with lifecycle.request(scope("/items/{id}")):
                async with database.read_session() as session:
                    await count(session)
                    idle.set()
                    await go_on.wait()
                    await run_slow(session, database)

        idle, go_on = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(work(), name="request 7")
        await idle.wait()
        (holder,) = database.holders()
        assert (holder.route, holder.task) == ("GET /items/{id}", "request 7")
        assert holder.idle is not None
        assert 0 <= holder.idle <= holder.held
        assert holder.place is not None
        assert "test_ledger.py" in holder.place
        assert "in count" in holder.stack[-1]
        assert any("in work" in line for line in holder.stack)
        go_on.set()
        await until(lambda: database.holders()[0].idle is None, what="the statement to run")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert database.holders() == ()


async def test_use_is_summed_by_route(url: str, lifecycle: Lifecycle) -> None:
    async with opened(url, lifecycle) as database:
        for _ in range(3):
            with lifecycle.request(scope("/items/{id}")):
                async with database.read_session() as session:
                    await count(session)
        with lifecycle.request({"type": "http", "method": "GET", "path": "/raw/7"}):
            async with database.read_session() as session:
                await count(session)
        used = database.use_time()
        assert {"GET /items/{id}", "no route", "no request"} == set(used)
        assert used["GET /items/{id}"].count == 3
        assert 0 < used["GET /items/{id}"].longest <= used["GET /items/{id}"].seconds


async def test_who_leaves_a_connection_idle_is_told_once(
    url: str, lifecycle: Lifecycle, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[events.Event] = []
    async with opened(url, lifecycle, idle_in_transaction=0.05) as database:
        lifecycle.events.subscribe(told.append)

        async def hold() -> None:
            with lifecycle.request(scope("/ask")):
                async with database.read_session() as session:
                    await count(session)
                    await enough.wait()

        enough = asyncio.Event()
        task = asyncio.create_task(hold())
        await until(lambda: told, what="the report")
        await asyncio.sleep(0.15)  # two more looks
        enough.set()
        await task
    (event,) = told
    assert isinstance(event, events.ConnectionLeftIdle)
    assert event.route == "GET /ask"
    assert event.idle >= 0.05
    assert "test_ledger.py" in str(event.place)
    assert "GET /ask holds a connection and has not used it" in caplog.text


async def test_what_a_request_left_out_is_told_and_taken_back(
    url: str, lifecycle: Lifecycle, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[events.Event] = []
    kept: list[Any] = []

    async def leaky(database: Database) -> None:
        with lifecycle.request(scope("/leaky")):
            unit = database.session()
            session = await unit.__aenter__()
            await count(session)
            kept.append((unit, session))  # so that no garbage collector helps

    async with opened(url, lifecycle, trace=True, max_wait=5) as database:
        lifecycle.events.subscribe(told.append)
        for _ in range(5):  # more than the pool has, and on SQLite than there are writers
            await asyncio.create_task(leaky(database), name="request")
        await until(lambda: database.statistics().in_use == 0, what="all to be taken back")
        async with database.session() as session:
            assert await count(session) == 0
    assert [(type(one), getattr(one, "route", "")) for one in told] == [
        (events.ConnectionLeaked, "GET /leaky")
    ] * 5
    assert "in leaky" in caplog.text


async def test_what_was_left_out_is_taken_back_though_the_task_goes_on(
    url: str, lifecycle: Lifecycle
) -> None:
    async with opened(url, lifecycle) as database:
        with lifecycle.request(scope("/leaky")) as request:
            unit = database.session()
            session = await unit.__aenter__()
            await count(session)
        request.task = None  # as the middleware does when a request is over
        assert database.statistics().in_use == 1
        database._ledger.sweep()
        await until(lambda: database.statistics().in_use == 0)


async def test_work_that_a_request_started_keeps_its_connection(
    url: str, lifecycle: Lifecycle
) -> None:
    async with opened(url, lifecycle) as database:

        async def background() -> int:
            async with database.read_session() as session:
                await count(session)
                taken.set()
                await enough.wait()
                return await count(session)

        taken, enough = asyncio.Event(), asyncio.Event()
        with lifecycle.request(scope("/start")):
            task = asyncio.create_task(background())
            await taken.wait()
        database._ledger.sweep()
        assert database.statistics().in_use == 1
        enough.set()
        assert await task == 0


async def test_streams_and_background_work_leave_the_reserve_to_requests(
    url: str, lifecycle: Lifecycle
) -> None:
    async with opened(url, lifecycle, reserve=1, max_wait=20) as database:

        async def hold() -> None:
            async with database.read_session() as session:
                await count(session)
                await enough.wait()

        async def answered() -> None:
            with lifecycle.request(scope("/stream")) as request:
                request.status = 200
                await hold()

        enough = asyncio.Event()

        async def socket() -> None:
            with lifecycle.request({"type": "websocket", "path": "/chat"}):
                await hold()

        others = [asyncio.create_task(work()) for work in (hold, answered, answered, socket)]
        await until(lambda: database.statistics().waiting == 3)
        with lifecycle.request(scope("/items")):
            async with database.read_session() as session:
                await count(session)
                assert (database.statistics().in_use, database.statistics().waiting) == (2, 3)
        assert database.statistics().in_use == 1
        enough.set()
        await asyncio.gather(*others)
