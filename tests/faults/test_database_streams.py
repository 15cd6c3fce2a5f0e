"""A stream holds no connection that it does not use, and neither does what follows an answer."""

import asyncio
import json
from contextlib import AsyncExitStack

import pytest

from tests.harness import Stream

from .database_service import OURS, POST, ServedService, served

POOL = 5


async def check_no_connection_is_leaked(service: ServedService) -> None:
    assert (await service.post("/no-collector")).status == 200
    assert (await service.create("bolt", 3)).status == 201
    answers = [await service.get("/rows") for _ in range(3)]
    in_use = await service.settled("in_use", 0)
    assert in_use == 0, f"{in_use} connections never came back"
    assert "complete" not in [answer.ended for answer in answers]
    await service.process.wait_for_line("session of its own.*SP404")


async def test_session_that_ended_before_its_stream_leaks_connections(sqlite_url: str) -> None:
    """Closed before the first item, SQLAlchemy's session silently checks out a connection again."""
    async with served(POST, sqlite_url) as service:
        with pytest.raises(AssertionError, match="3 connections never came back"):
            await check_no_connection_is_leaked(service)


async def test_session_that_ended_before_its_stream_is_an_error(sqlite_url: str) -> None:
    """Its use raises, takes no connection, and says what to do: a session of the stream's own."""
    async with served(OURS, sqlite_url) as service:
        await check_no_connection_is_leaked(service)
        await check_stream_with_its_own_session_is_whole(service)


async def check_stream_with_its_own_session_is_whole(service: ServedService) -> None:
    answer = await service.get("/own-rows")
    assert (answer.status, answer.ended) == (200, "complete")
    assert json.loads(answer.body) == {"id": 1, "name": "bolt", "quantity": 3}
    assert await service.settled("in_use", 0) == 0


async def check_subscribers_leave_the_pool_free(service: ServedService) -> None:
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(Stream(service.port, "/subscribe")) for _ in range(POOL)
        ]
        for stream in streams:
            assert (await stream.next_event()).data == "0"
        answer = await service.get("/items", timeout=2.0)
        assert answer.status == 200, "no answer within 2 s beside five subscribers"
        assert (await service.post("/gate")).status == 200
        for stream in streams:
            assert (await stream.next_event()).data == "0"


async def test_seeds_subscribers_empty_the_pool(sqlite_url: str) -> None:
    """A session that is a dependency of a stream keeps its connection as long as the stream."""
    async with served(POST, sqlite_url, pool_size=POOL) as service:
        with pytest.raises(AssertionError, match="no answer within 2 s beside five subscribers"):
            await check_subscribers_leave_the_pool_free(service)


async def test_subscribers_hold_no_connection_between_their_reads(sqlite_url: str) -> None:
    """Each read has a short session of its own."""
    async with served(OURS, sqlite_url, pool_size=POOL) as service:
        await check_subscribers_leave_the_pool_free(service)


async def check_background_tasks_leave_the_pool_free(service: ServedService) -> None:
    answers = await asyncio.gather(*(service.post("/remind") for _ in range(POOL)))
    assert [answer.status for answer in answers] == [200] * POOL
    answer = await service.get("/items", timeout=2.0)
    assert answer.status == 200, "no answer within 2 s beside five answered requests"
    assert (await service.post("/gate")).status == 200


async def test_seeds_background_tasks_empty_the_pool(sqlite_url: str) -> None:
    """The session of an answered request is closed only after its BackgroundTasks."""
    async with served(POST, sqlite_url, pool_size=POOL) as service:
        with pytest.raises(AssertionError, match="no answer within 2 s beside five answered"):
            await check_background_tasks_leave_the_pool_free(service)


async def test_background_tasks_hold_no_connection_of_their_request(sqlite_url: str) -> None:
    """The unit of work is over before the answer, so before the task begins."""
    async with served(OURS, sqlite_url, pool_size=POOL) as service:
        await check_background_tasks_leave_the_pool_free(service)
