"""A database that goes away, or goes silent: jobs wait, and go on by themselves."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from stormproof.database import Database
from stormproof.jobs import Jobs, _driver, _port
from tests.database.test_server import Relay
from tests.harness import until


@pytest.fixture(params=["asyncpg", "psycopg"])
async def relay(request: pytest.FixtureRequest, postgres_database: str) -> AsyncIterator[Relay]:
    relay = Relay(postgres_database.replace("+asyncpg", f"+{request.param}"))
    await relay.start()
    yield relay
    relay.is_silent = False
    await relay.stop()


@pytest.mark.parametrize("fault", ["gone", "silent"])
async def test_jobs_go_on_after_an_outage_and_their_ends_are_stored(
    relay: Relay, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What psycopg logs of a cancellation holds its traceback, and so its connection's socket.
    monkeypatch.setattr(logging.getLogger("psycopg"), "disabled", True)
    monkeypatch.setattr(_driver, "_PATIENCE", 1.0)
    monkeypatch.setattr(_port, "_LONGEST_PAUSE", 0.2)
    may_end, begun, done = asyncio.Event(), list[int](), list[int]()
    async with Database(relay.url, unready_after=None) as database:
        jobs = Jobs(database)

        @jobs.task()
        async def work(number: int) -> None:
            begun.append(number)
            await may_end.wait()
            done.append(number)

        await jobs.open()
        async with database.session() as session:
            handles = await work.enqueue_many(session, [{"number": n} for n in range(3)])
            handles += await work.enqueue_many(session, [{"number": 3}], delay=0.5)
        await until(lambda: len(begun) == 3, 20.0)
        if fault == "gone":
            await relay.stop()
        else:
            relay.is_silent = True
        may_end.set()  # the ends cannot be stored now
        await until(lambda: jobs._worker is not None and jobs._worker._port._is_away, 20.0)
        if fault == "gone":
            await relay.start()
        else:
            relay.is_silent = False

        async def all_done() -> bool:
            try:
                return {await jobs.status(h.id or 0) for h in handles} == {"done"}
            except Exception:
                return False

        await until(all_done, 60.0)
        await jobs.close()
    assert sorted(done) == sorted(begun) == [0, 1, 2, 3]


async def test_the_first_question_after_a_restart_is_answered(relay: Relay) -> None:
    async with Database(relay.url, unready_after=None) as database:
        jobs = Jobs(database, worker=False)
        await jobs.open()
        assert await jobs.held() == []
        await relay.stop()
        await relay.start()
        assert await jobs.held() == []
        await jobs.close()
