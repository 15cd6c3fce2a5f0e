"""PostgresBus in the caller's transaction, and when its server is cut off or goes silent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import stormproof
from stormproof.errors import BusUnavailable, BusUnusable, InvalidSetting, PublishUnknown
from stormproof.prove.faults import Blackhole, Refuse, Reset
from stormproof.stream._bus import Entry, HistoryLost, Position
from stormproof.stream._postgres import PostgresBus

from .buses import begun, data, proxied, publish, read_all

LOG = "stormproof_events"


@asynccontextmanager
async def opened(*urls: str, **options: Any) -> AsyncIterator[list[PostgresBus]]:
    quick = {"timeout": 5.0, "answer_within": 0.3, "poll": 0.2}
    buses = [PostgresBus(url, **(quick | options)) for url in urls]
    try:
        yield buses
    finally:
        for bus in buses:
            await bus.close()


@pytest.fixture
async def url(postgres_database: str) -> str:
    bus = PostgresBus(postgres_database)
    await asyncio.gather(bus.create(), bus.create())
    await bus.close()
    return postgres_database


async def run(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


@asynccontextmanager
async def session_on(url: str, driver: str = "asyncpg") -> AsyncIterator[AsyncSession]:
    engine = create_async_engine(url.replace("asyncpg", driver))
    try:
        async with AsyncSession(engine) as session:
            yield session
    finally:
        await engine.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_an_event_is_published_by_the_callers_commit_and_never_without_it(
    url: str, driver: str
) -> None:
    async with opened(url) as (bus,), session_on(url, driver) as session:
        start = await bus.tail()
        await bus.append_in(session, Entry("t", "undone", event="e", key="k"))
        await session.rollback()
        await bus.append_in(session, Entry("t", "kept", event="e", key="k"))
        await bus.append_in(session, Entry("t", "plain"))
        assert list(await bus.read(start, limit=5, wait=0.01)) == []
        reading = asyncio.create_task(bus.read(start, limit=5, wait=5))
        await begun(reading)
        await session.commit()
        read = await reading
        assert [(e.topic, e.data, e.event, e.key) for e in read] == [
            ("t", "kept", "e", "k"),
            ("t", "plain", None, None),
        ]


async def test_a_unit_of_work_of_our_database_publishes_with_what_it_stores(url: str) -> None:
    async with opened(url) as (bus,), stormproof.Database(url) as database:
        start = await bus.tail()
        hub = stormproof.Hub(bus)
        async with database.session() as session:
            await hub.publish("t", "undone", session=session)
            await session.rollback()
        async with database.session() as session:
            await session.execute(text("CREATE TABLE orders (id int)"))
            await hub.publish("t", {"kept": 1}, session=session)
        assert data(await bus.read(start, limit=5, wait=5)) == ['{"kept":1}']


async def test_a_long_transaction_holds_nobody_up_and_is_not_skipped_when_it_commits(
    url: str,
) -> None:
    async with opened(url, url) as (bus, other), session_on(url) as slow, session_on(url) as fast:
        start = await bus.tail()
        await bus.append_in(slow, Entry("t", "first begun"))
        await bus.append_in(fast, Entry("t", "first committed"))
        await fast.commit()
        await other.append(Entry("t", "direct"))
        early = await read_all(bus, start, 2)
        assert data(early) == ["first committed", "direct"]
        await slow.commit()
        late = await read_all(bus, Position(start.epoch, early[-1].offset), 1)
        assert data(late) == ["first begun"]
        assert data(await other.read(start, limit=9, wait=0)) == data(early) + data(late)


async def test_an_event_that_nobody_was_woken_for_is_read_at_the_next_poll(url: str) -> None:
    async with opened(url) as (bus,):
        reading = asyncio.create_task(bus.read(await bus.tail(), limit=5, wait=5))
        await begun(reading)
        await run(url, f"INSERT INTO {LOG}_outbox (topic, data) VALUES ('t', 'silent')")
        assert data(await reading) == ["silent"]


async def test_cut_and_terminated_connections_lose_and_repeat_nothing(url: str) -> None:
    async with proxied(url) as proxy, opened(proxy.url, proxy.url) as (reader, publisher):
        start = await reader.tail()
        reading = asyncio.create_task(read_all(reader, start, 120))
        for n in range(120):
            if n % 20 == 10:
                proxy.set(Reset())
                asyncio.get_running_loop().call_later(0.01, proxy.clear)
            elif n % 40 == 0:
                await run(
                    url,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND datname = current_database()",
                )
            await publisher.append(Entry("t", str(n)))
        assert data(await reading) == [str(n) for n in range(120)]


async def test_a_silent_network_is_noticed_by_reader_and_publisher(url: str) -> None:
    async with (
        proxied(url) as proxy,
        opened(proxy.url, proxy.url, url, timeout=0.5) as (reader, publisher, other),
    ):
        [position] = await publish(publisher, 1)
        reading = asyncio.create_task(reader.read(position, limit=5, wait=10))
        await begun(reading)
        seen = proxy.attempts
        proxy.set(Blackhole())
        with pytest.raises(PublishUnknown, match="may be published or not"):
            await publisher.append(Entry("t", "unknown"))
        await publish(other, 1, first=2)
        while proxy.attempts == seen:  # the reader has given its connection up
            await asyncio.sleep(0.01)
        proxy.set(Refuse())
        with pytest.raises(BusUnavailable, match="not published"):
            await other_than(publisher, reader).append(Entry("t", "never"))
        proxy.clear()
        assert "2" in data(await reading)


def other_than(used: PostgresBus, fresh: PostgresBus) -> PostgresBus:
    assert used is not fresh
    return fresh


async def test_a_lock_that_somebody_holds_bounds_publishers_and_stops_no_reader(url: str) -> None:
    holder = await asyncpg.connect(url.replace("+asyncpg", ""))
    async with opened(url, timeout=0.7) as (bus,):
        [position] = await publish(bus, 1)
        async with holder.transaction():
            await holder.execute(f"SELECT FROM {LOG}_facts FOR UPDATE")
            with pytest.raises(PublishUnknown):
                await bus.append(Entry("t", "2"))
            assert list(await bus.read(position, limit=5, wait=0.01)) == []
        await bus.append(Entry("t", "3"))
        assert data(await bus.read(position, limit=5, wait=0))[-1] == "3"
    await holder.close()


async def test_a_standby_that_lacked_the_newest_is_a_gap_for_those_alone_who_were_ahead(
    url: str,
) -> None:
    async with opened(url) as (bus,):
        positions = await publish(bus, 5)
        await run(
            url,
            f"DELETE FROM {LOG} WHERE place > 2",
            f"UPDATE {LOG}_facts SET last = 2, size = 2, process = 'the primary before'",
        )
        with pytest.raises(HistoryLost):
            await bus.read(positions[-1], limit=5, wait=0)
        await publish(bus, 9, first=6)  # more than were lost
        with pytest.raises(HistoryLost):
            await bus.read(positions[-1], limit=5, wait=0)
        behind = await bus.read(positions[1], limit=20, wait=0)
        assert data(behind) == [str(n) for n in range(6, 15)]


async def test_an_outbox_that_has_gathered_much_is_moved_in_parts_and_comes_first(
    url: str,
) -> None:
    many = 9_000
    async with opened(url, url, keep=many // 2, timeout=10.0) as (reader, publisher):
        start = await reader.tail()
        await run(
            url,
            f"INSERT INTO {LOG}_outbox (topic, data) "
            f"SELECT 't', number FROM generate_series(1, {many}) AS number",
        )
        position = await publisher.append(Entry("t", "last"))
        assert position.offset == many + 1
        with pytest.raises(HistoryLost):
            await reader.read(start, limit=5, wait=5)
        after = Position(start.epoch, many - 2)
        assert data(await reader.read(after, limit=5, wait=0)) == [str(many - 1), str(many), "last"]


async def test_entries_older_than_max_age_are_deleted_when_something_is_published(
    url: str,
) -> None:
    async with opened(url, max_age=60.0) as (bus,):
        positions = await publish(bus, 3)
        await run(
            url,
            f"UPDATE {LOG} SET stored_at = stored_at - interval '2 min' WHERE place < 3",
            f"UPDATE {LOG}_facts SET looked_at = looked_at - interval '2 min'",
        )
        await publish(bus, 1, first=4)
        with pytest.raises(HistoryLost):
            await bus.read(positions[0], limit=5, wait=0)
        assert data(await bus.read(positions[1], limit=5, wait=0)) == ["3", "4"]


async def test_tables_made_anew_are_another_epoch(url: str) -> None:
    async with opened(url) as (bus,):
        [position] = await publish(bus, 1)
        tables = [f"{LOG}{part}" for part in ("", "_facts", "_outbox", "_publishers")]
        await run(url, f"DROP TABLE {', '.join(tables)} CASCADE")
        with pytest.raises(BusUnusable, match=r"`await bus.create\(\)`.* \[SP806\]"):
            await bus.append(Entry("t", "nowhere"))
        await bus.create()
        await publish(bus, 3)
        with pytest.raises(HistoryLost, match="began anew"):
            await bus.read(position, limit=5, wait=0)


async def test_what_cannot_be_used_says_what_can() -> None:
    for options in ({"keep": 0}, {"max_age": -1.0}, {"log": "drop table"}, {"poll": 0.0}):
        with pytest.raises(InvalidSetting, match=next(iter(options))):
            PostgresBus("postgresql://localhost/x", **options)
    bus = PostgresBus("postgresql://localhost/x")
    with pytest.raises(InvalidSetting, match="a NUL, which PostgreSQL cannot"):
        await bus.append(Entry("t", "\0"))
    async with session_on("sqlite+aiosqlite://", "aiosqlite") as session:
        with pytest.raises(InvalidSetting, match="asyncpg or psycopg"):
            await bus.append_in(session, Entry("t", "1"))
        with pytest.raises(InvalidSetting, match=r"MemoryBus.*use a PostgresBus"):
            await stormproof.Hub().publish("t", "1", session=session)
    await bus.close()
