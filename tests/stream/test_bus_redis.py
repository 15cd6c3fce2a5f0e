"""RedisBus when its server restarts, forgets, is cut off or goes silent."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from stormproof.errors import BusUnavailable, BusUnusable, InvalidSetting, PublishUnknown
from stormproof.prove.faults import Blackhole, Down, Refuse, Reset
from stormproof.stream._bus import Entry, HistoryLost, Position
from stormproof.stream._redis import RedisBus
from tests.harness.redis import RedisServer, running_redis

from .buses import begun, data, proxied, publish, read_all


@asynccontextmanager
async def opened(*urls: str, timeout: float = 5.0) -> AsyncIterator[list[RedisBus]]:
    buses = [RedisBus(url, timeout=timeout, answer_within=0.2, poll=0.2) for url in urls]
    try:
        yield buses
    finally:
        for bus in buses:
            await bus.close()


async def test_a_restart_with_its_file_goes_on_where_it_was() -> None:
    with running_redis("--appendonly", "yes") as server:
        async with opened(server.url, server.url) as (reader, publisher):
            start = await reader.tail()
            await publish(publisher, 2)
            read = await read_all(reader, start, 2)
            tail = Position(start.epoch, read[-1].offset)
            reading = asyncio.create_task(reader.read(tail, limit=5, wait=10))
            await begun(reading)
            server.kill()
            appending = asyncio.create_task(publish(publisher, 2, first=3))
            server.start()
            after = await appending
            read += await reading
            read += await reader.read(Position(tail.epoch, read[-1].offset), limit=5, wait=0)
            assert data(read) == ["1", "2", "3", "4"]
            assert after[0].epoch == start.epoch
            assert data(await reader.read(start, limit=9, wait=0)) == ["1", "2", "3", "4"]


async def forget_all(server: RedisServer) -> None:
    server.kill()
    server.start()


async def flush(server: RedisServer) -> None:
    server.clear()


async def delete_the_stream(server: RedisServer) -> None:
    assert server.say("DEL {stormproof}") == b":1\r\n"


async def delete_what_lies_beside(server: RedisServer) -> None:
    assert server.say("DEL {stormproof}:facts") == b":1\r\n"


@pytest.mark.parametrize("forget", [forget_all, flush, delete_the_stream, delete_what_lies_beside])
@pytest.mark.parametrize("is_published_after", [True, False])
async def test_a_store_that_forgot_is_history_lost_for_a_reader_who_waits(
    forget: Callable[[RedisServer], object], is_published_after: bool
) -> None:
    with running_redis() as server:
        async with opened(server.url, server.url) as (reader, publisher):
            await publish(publisher, 3)
            tail = await reader.tail()
            reading = asyncio.create_task(reader.read(tail, limit=5, wait=10))
            await begun(reading)
            await forget(server)  # type: ignore[misc]
            if is_published_after:
                await publish(publisher, 5)
            with pytest.raises(HistoryLost):
                await reading
            new = await reader.tail()
            assert new.epoch > tail.epoch


async def test_a_store_restored_from_an_older_copy_is_a_gap_for_those_alone_who_were_ahead() -> (
    None
):
    with running_redis() as server:
        async with opened(server.url, server.url) as (reader, publisher):
            old = (await publish(publisher, 2))[-1]
            assert server.say("SAVE") == b"+OK\r\n"
            ahead = (await publish(publisher, 3, first=3))[-1]
            server.kill()
            server.start()
            with pytest.raises(HistoryLost):
                await reader.read(ahead, limit=5, wait=0)
            await publish(publisher, 9, first=6)  # more than were lost
            with pytest.raises(HistoryLost):
                await reader.read(ahead, limit=5, wait=0)
            behind = await reader.read(old, limit=20, wait=0)
            assert data(behind) == [str(n) for n in range(6, 15)]


async def test_entries_deleted_in_the_middle_end_a_read_before_the_gap() -> None:
    with running_redis() as server:
        async with opened(server.url) as (bus,):
            start = await bus.tail()
            positions = await publish(bus, 5)
            server.say(f"XDEL {{stormproof}} {positions[2]}")
            assert data(await bus.read(start, limit=9, wait=0)) == ["1", "2"]
            with pytest.raises(HistoryLost):
                await bus.read(positions[1], limit=9, wait=0)
            assert data(await bus.read(positions[2], limit=9, wait=0)) == ["4", "5"]


async def test_cut_and_killed_connections_lose_and_repeat_nothing(
    redis_server: RedisServer,
) -> None:
    async with (
        proxied(redis_server.url) as proxy,
        opened(proxy.url, proxy.url) as (reader, publisher),
    ):
        start = await reader.tail()
        reading = asyncio.create_task(read_all(reader, start, 200))
        for n in range(200):
            if n % 20 == 10:
                proxy.set(Reset())
                asyncio.get_running_loop().call_later(0.01, proxy.clear)
            elif n % 20 == 0:
                redis_server.say("CLIENT KILL TYPE normal")
            await publisher.append(Entry("t", str(n)))
        assert data(await reading) == [str(n) for n in range(200)]


async def test_a_silent_network_is_noticed_by_reader_and_publisher(
    redis_server: RedisServer,
) -> None:
    async with (
        proxied(redis_server.url) as proxy,
        opened(proxy.url, proxy.url, redis_server.url, timeout=0.5) as (reader, publisher, other),
    ):
        [position] = await publish(publisher, 1)
        reading = asyncio.create_task(reader.read(position, limit=5, wait=10))
        await begun(reading)
        proxy.set(Blackhole())
        with pytest.raises(PublishUnknown, match="may be published or not"):
            await publisher.append(Entry("t", "unknown"))
        with pytest.raises(BusUnavailable, match="did not answer"):
            await publisher.tail()
        seen = proxy.attempts
        await publish(other, 1, first=2)
        while proxy.attempts == seen:  # the reader has given its connection up
            await asyncio.sleep(0.01)
        proxy.clear()
        assert "2" in data(await reading)


async def test_an_append_while_nothing_listens_is_known_not_to_be_stored(
    redis_server: RedisServer,
) -> None:
    async with proxied(redis_server.url) as proxy, opened(proxy.url, timeout=0.3) as (bus,):
        proxy.set(Refuse())
        with pytest.raises(BusUnavailable, match=r"not published.* \[SP801\]"):
            await bus.append(Entry("t", "1"))
        proxy.clear()
        assert (await bus.tail()).offset == 0


async def test_who_leaves_before_anything_is_sent_publishes_nothing(
    redis_server: RedisServer,
) -> None:
    async with proxied(redis_server.url) as proxy, opened(proxy.url) as (bus,):
        start = await bus.tail()
        proxy.set(Down())
        leaving, staying = (asyncio.create_task(bus.append(Entry("t", word))) for word in "ls")
        await begun(leaving)
        leaving.cancel()
        proxy.clear()
        await staying
        assert data(await bus.read(start, limit=5, wait=0)) == ["s"]


async def test_a_server_that_refuses_says_why(redis_server: RedisServer) -> None:
    redis_server.say("SET {stormproof} text")
    async with opened(redis_server.url) as (bus,):
        with pytest.raises(BusUnusable, match=r"WRONGTYPE.* \[SP806\]"):
            await bus.append(Entry("t", "1"))
        assert redis_server.say("GET {stormproof}") == b"$4\r\ntext\r\n"
    with pytest.raises(InvalidSetting, match="url"):
        RedisBus("http://localhost")
    with pytest.raises(InvalidSetting, match=r"keep=0"):
        RedisBus(redis_server.url, keep=0)
