"""Readiness follows the database: 503 while no connection can be had, and back by itself."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from unittest.mock import patch

import pytest

from stormproof._core.events import Event, ReadinessLost, ReadinessRegained
from stormproof._core.lifecycle import Lifecycle
from stormproof.database import Database
from stormproof.errors import InvalidSetting
from tests.harness import until

from .model import Model, count
from .test_server import Relay, relay

__all__ = ("relay",)  # a fixture


@asynccontextmanager
async def opened(
    url: str, lifecycle: Lifecycle, **options: float | None
) -> AsyncIterator[Database]:
    """A database that is looked at twenty times a second."""
    settings: dict[str, Any] = {"unready_after": 0.1, "max_wait": 0.2, **options}
    database = Database(url, pool_size=1, max_overflow=1, **settings)
    with patch.multiple("stormproof.database._watch", _LOOK_EVERY=0.05, _LOOK_AGAIN=0.05):
        await database.open(lifecycle)
        try:
            yield database
        finally:
            await database.close()


@pytest.fixture
async def database(url: str, lifecycle: Lifecycle) -> AsyncIterator[Database]:
    """As all tests of this room have it, but watched."""
    async with opened(url, lifecycle) as database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Model.metadata.create_all)
        yield database


async def test_readiness_is_lost_while_no_connection_comes_free_and_regained(
    database: Database, lifecycle: Lifecycle
) -> None:
    heard: list[Event] = []
    lifecycle.events.subscribe(heard.append)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await count(await stack.enter_async_context(database.read_session()))
        await until(lambda: lifecycle.unready, timeout=20, what="readiness to be lost")
        assert lifecycle.unready == {"part 'database'": "none of 2 connections comes free"}
        assert database.statistics().timeouts == 0  # the watch does not wait in line
    await until(lambda: not lifecycle.unready, timeout=20, what="readiness to come back")
    told = [type(event) for event in heard if isinstance(event, ReadinessLost | ReadinessRegained)]
    assert told == [ReadinessLost, ReadinessRegained]


async def test_a_full_pool_whose_connections_come_free_is_ready(
    database: Database, lifecycle: Lifecycle
) -> None:
    """As many callers as it has connections, and more: busy is not broken."""
    give_up_at = time.monotonic() + 0.5
    heard: list[Event] = []
    lifecycle.events.subscribe(heard.append)

    async def caller() -> None:
        while time.monotonic() < give_up_at:
            async with database.read_session() as session:
                await count(session)
                await asyncio.sleep(0.01)

    await asyncio.gather(*(caller() for _ in range(4)))
    assert not [event for event in heard if isinstance(event, ReadinessLost)]


async def test_readiness_is_lost_while_the_server_is_down_and_regained(
    relay: Relay, lifecycle: Lifecycle, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "stormproof"):
        async with opened(relay.url, lifecycle) as database:
            await relay.stop()
            await until(lambda: lifecycle.unready, timeout=20, what="readiness to be lost")
            assert lifecycle.unready == {"part 'database'": "no connection: DatabaseUnavailable"}
            await relay.start()
            await until(lambda: not lifecycle.unready, timeout=20, what="readiness to come back")
            assert database.statistics().in_use == 0
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "part 'database': no connection: DatabaseUnavailable",
        "part 'database': a connection can be had again",
    ]


async def test_readiness_is_lost_while_the_server_is_silent_and_regained(
    relay: Relay, lifecycle: Lifecycle
) -> None:
    async with opened(relay.url, lifecycle) as database:
        relay.is_silent = True
        await until(lambda: lifecycle.unready, timeout=20, what="readiness to be lost")
        assert "does not answer" in lifecycle.unready["part 'database'"]
        relay.is_silent = False
        await until(lambda: not lifecycle.unready, timeout=20, what="readiness to come back")
        await until(lambda: database.statistics().in_use == 0, timeout=20)


async def test_a_probe_that_the_server_leaves_unanswered_does_not_hold_up_the_end(
    relay: Relay, lifecycle: Lifecycle
) -> None:
    async with opened(relay.url, lifecycle) as database:
        relay.is_silent = True
        await until(
            lambda: database.statistics().in_use == 1, timeout=20, what="the probe to be under way"
        )
        began_at = time.monotonic()
        assert await database.drain(began_at + 10) == []
    assert time.monotonic() - began_at < 5  # 2 s are the driver's goodbye


async def test_who_says_so_is_ready_without_the_database(relay: Relay) -> None:
    lifecycle = Lifecycle()
    async with opened(relay.url, lifecycle, unready_after=None):
        assert not [task for task in asyncio.all_tasks() if "watch" in task.get_name()]


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="unready_after=-1"):
        Database("sqlite:///test.db", unready_after=-1)
