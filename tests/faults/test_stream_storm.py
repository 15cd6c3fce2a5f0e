"""Restarted servers, cut buses, clients that come and go: no event is lost, in any order."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from stormproof.prove.faults import FaultProxy, Reset
from stormproof.stream import Bus, Entry
from stormproof.stream._postgres import PostgresBus
from tests.harness.redis import RedisServer
from tests.stream.buses import proxied

from .stream_storm import TOPICS, Client, bus_of, harm, servers

_log = logging.getLogger(__name__)

pytestmark = pytest.mark.storm

EVENTS = 20_000
PER_TOPIC = EVENTS // len(TOPICS)
IN_TRANSACTIONS = 2
"""Topics whose events are published in transactions, where the bus can."""
SERVERS = 4
CLIENTS = 6
STEPS = 10


class Turnstile:
    """Lets publishers on by steps, so that each harm meets a stream of events."""

    def __init__(self) -> None:
        self._allowed = 0
        self._moved = asyncio.Event()

    def allow(self, number: int) -> None:
        self._allowed = number
        self._moved.set()
        self._moved = asyncio.Event()

    async def wait_for(self, number: int) -> None:
        while number >= self._allowed:
            await self._moved.wait()


@pytest.fixture(params=["redis", "postgres"])
def store_url(request: pytest.FixtureRequest) -> str:
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        return server.url
    return str(request.getfixturevalue("postgres_database"))


@pytest.fixture
async def proxy(store_url: str) -> AsyncIterator[FaultProxy]:
    async with proxied(store_url) as proxy:
        yield proxy


async def publish(bus: Bus, topic: str, turnstile: Turnstile) -> None:
    for number in range(PER_TOPIC):
        await turnstile.wait_for(number)
        await bus.append(Entry(topic, f"{topic} {number}"))


async def publish_in_transactions(
    bus: PostgresBus, url: str, topic: str, turnstile: Turnstile
) -> None:
    engine = create_async_engine(url)
    try:
        for number in range(PER_TOPIC):
            await turnstile.wait_for(number)
            async with AsyncSession(engine) as session:
                await bus.append_in(session, Entry(topic, f"{topic} {number}"))
                await session.commit()
    finally:
        await engine.dispose()


async def cut(proxy: FaultProxy) -> None:
    """Break every connection to the store, and new ones for a tenth of a second."""
    proxy.set(Reset())
    await asyncio.sleep(0.1)
    proxy.clear()


async def test_restarts_and_cuts_lose_and_repeat_no_event_and_keep_the_order(
    store_url: str, proxy: FaultProxy
) -> None:
    bus = bus_of(proxy.url)
    if isinstance(bus, PostgresBus):
        await bus.create()
    first_id = str(await bus.tail())
    turnstile = Turnstile()
    async with servers(SERVERS, proxy.url) as running:
        clients = [Client([server.port for server in running], first_id, n) for n in range(CLIENTS)]
        async with asyncio.TaskGroup() as group:
            for number, topic in enumerate(TOPICS):
                if isinstance(bus, PostgresBus) and number < IN_TRANSACTIONS:
                    work = publish_in_transactions(bus, store_url, topic, turnstile)
                else:
                    work = publish(bus, topic, turnstile)
                group.create_task(work)
            for client in clients:
                group.create_task(client.run(EVENTS))
            for step in range(STEPS):
                turnstile.allow(PER_TOPIC * (step + 1) // STEPS)
                await cut(proxy)
                await harm(running, step)
    await bus.close()
    for client in clients:
        _log.info("%d visits, %d repeats, %s", client.comings, client.repeats, client.told)
        assert not client.told.keys() & {"gap", "reset", "error"}, client.told
        for topic in TOPICS:
            assert client.got[topic] == [str(number) for number in range(PER_TOPIC)]
