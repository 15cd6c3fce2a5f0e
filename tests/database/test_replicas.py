"""Reads go to a replica that is up and not too far behind; with a real streaming standby."""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from unittest.mock import patch

import asyncpg
import pytest
from sqlalchemy import text

from stormproof._core.deadline import Deadline, in_force
from stormproof._core.events import Event, ReplicaRegained, ReplicaSkipped
from stormproof._core.lifecycle import Lifecycle
from stormproof.database import Database, ReplicaStatistics
from stormproof.errors import DatabaseUnavailable, DeadlineExceeded, InvalidSetting, PoolTimeout
from tests.harness import until
from tests.harness.cluster import Server, own_server

from .model import Item, Model, names
from .test_server import Relay

_WHERE = text("SELECT pg_is_in_recovery()")


@pytest.fixture(scope="module")
def cluster(postgres_url: str) -> Iterator[Server]:
    """A standby of the run's server; a test that kills it starts it again."""
    with own_server(postgres_url) as standby:
        standby.copy(postgres_url)
        standby.start()
        yield standby


@pytest.fixture
async def standby(cluster: Server, postgres_database: str) -> Server:
    """The standby, which has the test's database."""

    await cluster.wait_until_up()

    async def has_it() -> bool:
        return await has_caught_up(postgres_database, cluster)

    await until(has_it, timeout=30)
    return cluster


def plain(url: str) -> str:
    return re.sub(r"\+\w+", "", url)


def on(server: Server, url: str) -> str:
    """The URL of the same database on another server."""
    return re.sub(r":\d+/", f":{server.port}/", url)


async def ask(url: str, statement: str) -> Any:
    connection = await asyncpg.connect(plain(url), timeout=5)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def has_caught_up(url: str, standby: Server) -> bool:
    there = await ask(url, "SELECT pg_current_wal_flush_lsn()::text")
    return bool(await ask(standby.url(), f"SELECT pg_last_wal_replay_lsn() >= '{there}'::pg_lsn"))


@asynccontextmanager
async def opened(
    url: str, *replicas: str, lifecycle: Lifecycle | None = None, **options: Any
) -> AsyncIterator[Database]:
    """A database whose replicas are looked at ten times a second, and may be slow to answer."""
    limit = options.pop("limit", 20.0)
    settings = {"pool_size": 2, "max_overflow": 0, "max_wait": 0.2, "max_lag": 100, **options}
    with (
        patch("stormproof.database._replicas._LOOK_EVERY", 0.1),
        patch("stormproof.database._lookout._LIMIT", limit),
    ):
        database = Database(url, replicas=replicas, **settings)
    await database.open(lifecycle or Lifecycle())
    try:
        yield database
        assert database.statistics().in_use == 0
        assert [one.in_use for one in database.statistics().replicas] == [0] * len(replicas)
    finally:
        await database.close()


def of(database: Database) -> ReplicaStatistics:
    (replica,) = database.statistics().replicas
    return replica


async def is_from_replica(database: Database) -> bool:
    async with database.read_session() as session:
        return bool(await session.scalar(_WHERE))


async def test_reads_go_to_the_replica_and_writes_do_not(driver_url: str, standby: Server) -> None:
    async with opened(driver_url, on(standby, driver_url)) as database:
        assert await is_from_replica(database)
        async with database.session() as session:
            assert not await session.scalar(_WHERE)
        with pytest.raises(Exception, match="read-only transaction"):
            async with database.read_session() as session:
                await session.execute(text("CREATE TABLE never (i INTEGER)"))
        assert (of(database).state, of(database).reads, database.holders()) == ("up", 2, ())
        assert of(database).place == f"127.0.0.1:{standby.port}/{driver_url.rpartition('/')[2]}"
        async with database.engine.begin() as connection:
            await connection.run_sync(Model.metadata.create_all)
        async with database.session() as session:
            session.add(Item(name="a"))
        await until(lambda: arrived(database), timeout=20)
        assert [name async for name in database.stream(Item.__table__.select())] != []


async def arrived(database: Database) -> bool:
    try:
        return await names(database) == ["a"]
    except Exception:  # the table is not there yet
        return False


async def test_a_replica_that_lags_is_skipped_until_it_has_caught_up(
    postgres_database: str, standby: Server
) -> None:
    heard: list[Event] = []
    lifecycle = Lifecycle()
    lifecycle.events.subscribe(heard.append)
    await ask(standby.url(), "SELECT pg_wal_replay_pause()")
    async with opened(
        postgres_database, on(standby, postgres_database), lifecycle=lifecycle, max_lag=0.4
    ) as database:
        await until(lambda: is_from_replica(database))  # paused, and behind by nothing
        await ask(postgres_database, "CREATE TABLE later AS SELECT 1 AS i")
        await until(lambda: of(database).state == "lagging", timeout=20)
        assert not await is_from_replica(database)
        assert (of(database).lag or 0) > 0.4
        assert lifecycle.unready == {}
        await ask(standby.url(), "SELECT pg_wal_replay_resume()")
        await until(lambda: is_from_replica(database), timeout=20)
    place = of(database).place
    skipped = [one.reason for one in heard if isinstance(one, ReplicaSkipped)]
    assert "it is more than 0.4 s behind" in skipped
    assert ReplicaRegained(place) in heard


async def test_a_killed_replica_costs_its_statement_and_no_other_and_comes_back(
    driver_url: str, standby: Server
) -> None:
    lifecycle = Lifecycle()
    async with opened(driver_url, on(standby, driver_url), lifecycle=lifecycle) as database:
        with pytest.raises(DatabaseUnavailable, match=f":{standby.port}/"):  # noqa: PT012
            async with database.read_session() as session:
                assert await session.scalar(_WHERE)
                standby.kill()
                await session.scalar(_WHERE)
        for _ in range(3):
            assert not await is_from_replica(database)
        assert (of(database).state, lifecycle.unready) == ("down", {})
        standby.start()
        await standby.wait_until_up()
        await until(lambda: of(database).state == "up", timeout=20)
        assert await is_from_replica(database)


async def test_a_replica_that_cannot_be_connected_to_costs_no_caller_anything(
    driver_url: str, standby: Server
) -> None:
    """Its first look found it well: who is sent there is sent on, and does not notice."""
    relay = Relay(on(standby, driver_url))
    await relay.start()
    async with opened(driver_url, relay.url) as database:
        assert await is_from_replica(database)
        await relay.stop()
        assert [await is_from_replica(database) for _ in range(3)] == [False] * 3
        assert of(database).state == "down"


@pytest.mark.storm  # the driver's goodbye takes 2 s
async def test_a_silent_replica_is_found_and_its_readers_keep_their_deadline(
    postgres_database: str, standby: Server
) -> None:
    relay = Relay(on(standby, postgres_database))
    await relay.start()
    async with opened(postgres_database, relay.url, max_lag=None, limit=1.0) as database:
        assert await is_from_replica(database)
        relay.is_silent = True
        with in_force(Deadline(time.monotonic() + 0.2)), pytest.raises(DeadlineExceeded):
            await is_from_replica(database)
        await until(lambda: of(database).state == "down", timeout=20)
        assert not await is_from_replica(database)
        relay.is_silent = False
        await until(lambda: of(database).state == "up", timeout=20)
    await relay.stop()


async def test_readers_wait_at_a_full_replica_as_at_the_database_itself(
    driver_url: str, standby: Server
) -> None:
    async with opened(driver_url, on(standby, driver_url)) as database, AsyncExitStack() as stack:
        for _ in range(2):
            session = await stack.enter_async_context(database.read_session())
            assert await session.scalar(_WHERE)
        with pytest.raises(PoolTimeout, match=f"to its replica 127.0.0.1:{standby.port}"):
            await is_from_replica(database)
        assert (of(database).in_use, of(database).timeouts) == (2, 1)
        assert database.statistics().in_use == 0
        assert len(database.holders()) == 2
        (lost, _) = await database.drain(time.monotonic() + 0.01)
        assert lost.kind == "part"


async def test_without_a_look_at_the_primary_no_lag_is_known_and_reads_go_there(
    postgres_database: str, standby: Server
) -> None:
    relay = Relay(postgres_database)
    await relay.start()
    async with opened(relay.url, on(standby, postgres_database), max_lag=0.4) as database:
        await until(lambda: is_from_replica(database))
        await relay.stop()
        await until(lambda: of(database).state == "lagging", timeout=20)
        with pytest.raises(DatabaseUnavailable):
            await is_from_replica(database)


async def test_a_dead_replica_stops_no_start_and_any_lag_is_taken_when_it_is_said(
    postgres_database: str, standby: Server
) -> None:
    there = on(standby, postgres_database)
    nowhere = re.sub(r":\d+/", ":1/", postgres_database)
    async with opened(postgres_database, nowhere, there, max_lag=None) as database:
        assert await is_from_replica(database)
        assert [one.state for one in database.statistics().replicas] == ["down", "up"]


async def test_a_read_cancelled_at_any_tick_gives_its_place_back(
    driver_url: str, standby: Server
) -> None:
    async with opened(driver_url, on(standby, driver_url)) as database:
        for ticks in range(20):
            if ticks % 4 == 0:
                await database._replicas._members[0].engine.dispose()  # type: ignore[union-attr]
            task = asyncio.create_task(is_from_replica(database))
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))
            assert (of(database).in_use, of(database).waiting) == (0, 0)
        # A look may have been late on a busy machine.
        await until(lambda: of(database).state == "up", timeout=20)
        assert await is_from_replica(database)


@pytest.mark.storm
async def test_readers_of_a_replica_that_is_killed_again_and_again_get_nothing_wrong(
    postgres_database: str, standby: Server
) -> None:
    """20 readers, half of whose reads are cancelled; 3 times `kill -9` of the whole standby."""
    chance = random.Random(5)
    outcomes: set[type] = set()
    failed, last_failed_at = 0, 0.0
    async with opened(
        postgres_database, on(standby, postgres_database), pool_size=5, max_wait=10
    ) as database:
        is_over = asyncio.Event()

        async def read() -> None:
            async with database.read_session() as session:
                assert await session.scalar(text("SELECT 41 + 1")) == 42
                await session.execute(text("SELECT pg_sleep(0.005)"))

        async def reader() -> None:
            nonlocal failed, last_failed_at
            while not is_over.is_set():
                reading = asyncio.create_task(read())
                if chance.random() < 0.5:
                    await asyncio.sleep(chance.random() * 0.02)
                    reading.cancel()
                await asyncio.wait((reading,))
                error = None if reading.cancelled() else reading.exception()
                if error is not None:
                    outcomes.add(type(error))
                    failed, last_failed_at = failed + 1, time.monotonic()

        readers = [asyncio.create_task(reader()) for _ in range(20)]
        for _ in range(3):
            await until(lambda: of(database).state == "up", timeout=60)
            await asyncio.sleep(0.3)
            killed_at = time.monotonic()
            standby.kill()
            await until(lambda: of(database).state == "down", timeout=20)
            standby.start()
            await standby.wait_until_up()
            assert last_failed_at - killed_at < 2.0
        is_over.set()
        await asyncio.gather(*readers)
        assert outcomes <= {DatabaseUnavailable}
        assert failed <= 3 * 5  # what ran on the replica when it was killed
        assert database.holders() == ()


async def test_the_primary_is_no_replica(postgres_database: str) -> None:
    async with opened(postgres_database, postgres_database) as database:
        assert (of(database).state, of(database).reads) == ("down", 0)


def test_what_can_be_no_replica_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="a SQLite database is one file and has none"):
        Database("sqlite:///test.db", replicas=["sqlite:///copy.db"])
    with pytest.raises(InvalidSetting, match="one string"):
        Database("postgresql://host/name", replicas="postgresql://other/name")
    with pytest.raises(InvalidSetting, match=r"other/name has the driver 'postgresql\+psycopg'"):
        Database("postgresql://host/name", replicas=["postgresql+psycopg://other/name"])
    with pytest.raises(InvalidSetting, match="max_lag=0"):
        Database("postgresql://host/name", replicas=["postgresql://other/name"], max_lag=0)
