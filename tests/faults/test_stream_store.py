"""A PostgreSQL that crashes under a stream: what a reader has seen is still there."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from stormproof.stream import Entry, Position
from stormproof.stream._postgres import PostgresBus
from tests.harness.postgres import RestartablePostgres

pytestmark = pytest.mark.storm

EVENTS = 1_000


@pytest.fixture
async def server() -> AsyncIterator[RestartablePostgres]:
    """One that commits asynchronously by default, as the harness sets it."""
    server = await asyncio.to_thread(RestartablePostgres)
    yield server
    await asyncio.to_thread(server.close)


async def test_a_crash_takes_back_nothing_that_was_acknowledged_or_read(
    server: RestartablePostgres,
) -> None:
    publisher, reader = PostgresBus(server.url, timeout=30.0), PostgresBus(server.url, timeout=30.0)
    await publisher.create()
    start = after = await reader.tail()
    got: list[str] = []

    async def publish() -> None:
        for number in range(EVENTS):
            if number % 400 == 200:
                await asyncio.to_thread(server.restart)
            await publisher.append(Entry("t", str(number)))

    publishing = asyncio.create_task(publish())
    while len(got) < EVENTS:
        entries = await reader.read(after, limit=100, wait=30.0)
        got += [entry.data for entry in entries]
        after = Position(start.epoch, after.offset + len(entries))
    await publishing
    assert got == [str(number) for number in range(EVENTS)]
    for bus in (publisher, reader):
        await bus.close()
