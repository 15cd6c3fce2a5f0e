"""What every bus promises, wherever it keeps its log."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from secrets import token_hex

import pytest

from stormproof._core.clock import MONOTONIC
from stormproof._core.deadline import Deadline, in_force
from stormproof.errors import BusUnusable, InvalidSetting
from stormproof.prove.faults import Blackhole, Reset
from stormproof.stream import Bus, Entry, HistoryLost, Hub, MemoryBus, Position
from stormproof.stream._postgres import PostgresBus
from stormproof.stream._redis import RedisBus
from stormproof.stream._store_bus import StoreBus
from tests.harness import ServerProcess, until

from .buses import SwallowShort, begun, data, proxied, publish, read_all
from .clients import Client, settle

KEEP = 50
SHARED = ["redis", "postgres"]
"""Those that several processes share."""

among_processes = pytest.mark.parametrize("kind", SHARED, indirect=True)


class Log:
    """One log, and as many buses over it as a test asks for."""

    def __init__(self, make: Callable[..., Bus], url: str = "", code: str = "") -> None:
        self.url = url
        self.code = code
        self._make = make
        self._buses: list[Bus] = []

    def bus(self, url: str = "", **options: float) -> Bus:
        """Return one more; by `url` if it is to reach its server by another way."""
        self._buses.append(self._make(url or self.url, **options))
        return self._buses[-1]

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()


@pytest.fixture(params=["memory", *SHARED])
def kind(request: pytest.FixtureRequest) -> tuple[Callable[..., Bus], str]:
    """A class and the URL of its server."""
    if request.param == "memory":
        return MemoryBus, ""
    if request.param == "redis":
        return RedisBus, request.getfixturevalue("redis_server").url
    return PostgresBus, request.getfixturevalue("postgres_url")


@pytest.fixture
async def log(kind: tuple[Callable[..., Bus], str]) -> AsyncIterator[Log]:
    make, url = kind
    if make is MemoryBus:
        memory = MemoryBus(keep=KEEP)
        yield Log(lambda _: memory)
        return
    name = f"log_{token_hex(4)}"
    code = f"bus = stormproof.{make.__name__}({url!r}, log={name!r})"
    log = Log(partial(make, log=name, keep=KEEP), url, code)
    bus = log.bus()
    if isinstance(bus, PostgresBus):
        await bus.create()
    yield log
    await log.close()


async def test_entries_come_whole_and_in_order_with_offsets_without_holes(log: Log) -> None:
    bus = log.bus()
    start = await bus.tail()
    entries = [
        Entry("a", "plain"),
        Entry("b", "ünï\ncode", event="named"),
        Entry("a", "", event="", key=""),
        Entry("a", "keyed", key="k"),
    ]
    positions = [await bus.append(entry) for entry in entries]
    assert positions == [Position(start.epoch, start.offset + n) for n in (1, 2, 3, 4)]
    assert await bus.tail() == positions[-1]
    read = await bus.read(start, limit=10, wait=0)
    assert [(e.topic, e.data, e.event, e.key) for e in read] == [
        (e.topic, e.data, e.event, e.key) for e in entries
    ]
    assert [entry.offset for entry in read] == [position.offset for position in positions]


async def test_reading_goes_on_after_any_position_at_most_limit_at_a_time(log: Log) -> None:
    bus = log.bus()
    positions = await publish(bus, 9)
    assert data(await bus.read(positions[2], limit=3, wait=0)) == ["4", "5", "6"]
    assert data(await log.bus().read(positions[5], limit=100, wait=5)) == ["7", "8", "9"]
    assert await bus.read(positions[8], limit=100, wait=0) == []


async def test_a_read_waits_for_the_first_and_returns_nothing_when_its_wait_is_over(
    log: Log,
) -> None:
    bus, other = log.bus(), log.bus()
    start = await bus.tail()
    assert list(await bus.read(start, limit=5, wait=0.05)) == []
    reading = asyncio.create_task(bus.read(start, limit=5, wait=5))
    await begun(reading)
    await publish(other, 1)
    assert data(await reading) == ["1"]


async def test_a_trimmed_position_is_history_lost_and_what_is_kept_can_be_read(log: Log) -> None:
    bus = log.bus()
    start = await bus.tail()
    positions = await publish(bus, 8 * KEEP)
    for after in (start, positions[0]):
        with pytest.raises(HistoryLost):
            await bus.read(after, limit=5, wait=0)
        with pytest.raises(HistoryLost):
            await bus.read(after, limit=5, wait=5)
    kept = await bus.read(positions[-KEEP - 1], limit=1000, wait=0)
    assert data(kept) == [str(n) for n in range(7 * KEEP + 1, 8 * KEEP + 1)]


async def test_a_client_whose_place_is_not_in_the_log_is_told_so(log: Log) -> None:
    """Whatever it says, it gets a reset and then all that is new, and never silence."""
    bus = log.bus()
    start = await bus.tail()
    end = (await publish(bus, 8 * KEEP))[-1]
    hub = Hub(bus, replay=KEEP)
    clients = [Client(hub) for _ in range(5)]
    async with hub:
        for client, told in zip(
            clients,
            (
                start,  # trimmed
                Position(end.epoch, end.offset + 1),
                Position(end.epoch, 10**18),
                Position("other", end.offset),
                Position("other", end.offset + 1),
            ),
            strict=True,
        ):
            client.connect(last_event_id=str(told))
        for client in clients:
            await until(lambda client=client: client.names == ["reset"])
        await settle()
        last = await hub.publish("t", "new")
        for client in clients:
            await until(lambda client=client: client.last_id == str(last))
            assert (client.names, client.data) == (["reset"], ["new"])
            await client.leave()


@among_processes
async def test_another_epoch_and_an_offset_never_given_are_history_lost(log: Log) -> None:
    bus = log.bus()
    [position] = await publish(bus, 1)
    for after in (
        Position("other", position.offset),
        Position(position.epoch, position.offset + 1),
        Position(position.epoch, 10**19 - 1),
    ):
        for wait in (0.0, 5.0):
            with pytest.raises(HistoryLost):
                await bus.read(after, limit=5, wait=wait)
    assert list(await bus.read(position, limit=5, wait=0.01)) == []


async def test_a_cancelled_read_loses_nothing_wherever_it_is_cancelled(log: Log) -> None:
    bus, other = log.bus(), log.bus()
    after, got = await bus.tail(), []
    for turn in range(30):
        reading = asyncio.create_task(bus.read(after, limit=5, wait=5))
        publishing = asyncio.create_task(publish(other, 1, first=turn))
        for _ in range(turn):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait((reading,))
        if not reading.cancelled():
            got += data(reading.result())
            after = Position(after.epoch, reading.result()[-1].offset)
        await publishing
    got += data(await read_all(bus, after, 30 - len(got)))
    assert got == [str(n) for n in range(30)]


@among_processes
async def test_cancelled_publishers_take_nothing_from_the_others(log: Log) -> None:
    bus = log.bus()
    start = await bus.tail()
    works = [asyncio.create_task(bus.append(Entry("t", str(n)))) for n in range(40)]
    for turn, work in enumerate(works[::4]):
        await asyncio.sleep(0.001 * (turn % 2))
        work.cancel()
    results = await asyncio.gather(*works, return_exceptions=True)
    kept = {str(n) for n, result in enumerate(results) if isinstance(result, Position)}
    assert len(kept) >= 30
    read = data(await bus.read(start, limit=100, wait=0))
    assert kept <= set(read)
    assert len(read) == len(set(read))
    assert read == sorted(read, key=int)


async def test_what_is_published_while_a_reader_is_down_is_read_when_it_is_back(log: Log) -> None:
    reader, publisher = log.bus(), log.bus()
    start = await reader.tail()
    await publish(publisher, 3)
    after = Position(start.epoch, (await read_all(reader, start, 3))[-1].offset)
    await reader.close()
    await publish(publisher, 4, first=4)
    assert data(await read_all(log.bus(), after, 4)) == ["4", "5", "6", "7"]


@among_processes
async def test_publishers_in_several_processes_make_one_order_for_all_readers(log: Log) -> None:
    bus, other = log.bus(), log.bus()
    start = await bus.tail()
    code = f"""
import asyncio, sys, stormproof
from stormproof.stream._bus import Entry
{log.code}
async def main():
    for n in range(20):
        await bus.append(Entry(sys.argv[1], str(n)))
    await bus.close()
asyncio.run(main())
"""
    async with (
        ServerProcess([sys.executable, "-c", code, "a"]) as first,
        ServerProcess([sys.executable, "-c", code, "b"]) as second,
    ):
        read, same = await asyncio.gather(read_all(bus, start, 40), read_all(other, start, 40))
        assert (await first.wait_exit(), await second.wait_exit()) == (0, 0)
    assert read == same
    for topic in ("a", "b"):
        assert [e.data for e in read if e.topic == topic] == [str(n) for n in range(20)]


async def test_close_ends_a_read_and_the_bus_can_be_used_again(log: Log) -> None:
    bus = log.bus()
    start = await bus.tail()
    reading = asyncio.create_task(bus.read(start, limit=5, wait=60))
    await begun(reading)
    await bus.close()
    await bus.close()
    assert list(await reading) == []
    await publish(bus, 1)
    assert data(await bus.read(start, limit=5, wait=5)) == ["1"]


@among_processes
def test_a_bus_serves_one_loop_after_the_other(kind: tuple[Callable[..., Bus], str]) -> None:
    """An app is often started once for each test, always with the hub that it was written with."""
    make, url = kind
    bus = make(url, log=f"log_{token_hex(4)}")

    async def use(number: int) -> list[str]:
        if isinstance(bus, PostgresBus):
            await bus.create()
        start = await bus.tail()
        reads = [asyncio.create_task(bus.read(start, limit=9, wait=5)) for _ in range(2)]
        await begun(reads[0])
        await publish(bus, 1, first=number)
        texts = [text for read in reads for text in data(await read)]
        await bus.close()
        return texts

    assert asyncio.run(use(1)) == ["1", "1"]
    assert asyncio.run(use(2)) == ["2", "2"]


@among_processes
async def test_text_that_cannot_be_stored_is_refused_alone(log: Log) -> None:
    bus = log.bus()
    start = await bus.tail()
    bad, good = await asyncio.gather(
        bus.append(Entry("t", "\ud800")), bus.append(Entry("t", "good")), return_exceptions=True
    )
    assert isinstance(bad, InvalidSetting)
    assert isinstance(good, Position)
    assert data(await bus.read(start, limit=5, wait=0)) == ["good"]


@among_processes
async def test_an_append_never_waits_past_the_deadline(log: Log) -> None:
    bus = log.bus()
    with in_force(Deadline(MONOTONIC.now() - 1)), pytest.raises(ConnectionError):
        await bus.append(Entry("t", "late"))


@among_processes
async def test_a_batch_that_arrives_after_a_later_one_is_refused(log: Log) -> None:
    bus, late = log.bus(), log.bus()
    assert isinstance(bus, StoreBus)
    assert isinstance(late, StoreBus)
    late._publisher = bus._publisher  # as if its first packet had been held up on the way
    positions = await publish(bus, 2)
    with pytest.raises(BusUnusable, match="a later batch of this publisher"):
        await late.append(Entry("t", "late"))
    assert await bus.tail() == positions[-1]


@among_processes
async def test_an_append_whose_answer_was_lost_is_stored_once(log: Log) -> None:
    async with proxied(log.url) as proxy:
        reader, publisher = log.bus(), log.bus(proxy.url)
        [first] = await publish(publisher, 1)
        proxy.set(SwallowShort())
        long = "x" * 2000
        appending = asyncio.create_task(publisher.append(Entry("t", long)))
        assert data(await reader.read(first, limit=5, wait=5)) == [long]
        proxy.set(Reset())
        proxy.clear()
        second = await appending
        await publish(publisher, 1, first=3)
        read = await reader.read(first, limit=5, wait=0)
        assert (data(read), read[0].offset) == ([long, "3"], second.offset)


@among_processes
async def test_an_append_that_arrives_after_its_repetition_is_stored_once(log: Log) -> None:
    async with proxied(log.url) as proxy:
        reader, publisher = log.bus(), log.bus(proxy.url, answer_within=0.3)
        [first] = await publish(publisher, 1)
        seen = proxy.attempts
        proxy.set(Blackhole())
        appending = asyncio.create_task(publish(publisher, 2, first=2))
        # One connection more: the first one's answer was given up, and its bytes still wait.
        while proxy.attempts == seen:
            await asyncio.sleep(0.01)
        proxy.clear()
        await appending
        assert data(await reader.read(first, limit=5, wait=0)) == ["2", "3"]
