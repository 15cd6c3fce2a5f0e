"""Clients that leave, a database that is killed or silent: nothing leaks, nothing is wrong."""

import asyncio
import json
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Annotated

import pytest
from fastapi import FastAPI
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

import stormproof
from tests.database.model import Item, Model
from tests.database.test_server import Relay
from tests.harness import request, until
from tests.harness.cluster import Server, own_server

from .database_service import OURS, loaded
from .in_process import served
from .test_database_commit import refusing_url as refusing_url

_log = logging.getLogger(__name__)

pytestmark = pytest.mark.storm

REQUESTS = 2_000


def service(database: stormproof.Database) -> FastAPI:
    """An app that stores a row in two statements, within two seconds."""
    app = FastAPI()
    stormproof.install(app, database, deadline=2.0, prestop=0)
    session = stormproof.session(database)

    @app.post("/items/{name}", status_code=201)
    async def store(name: str, session: Annotated[AsyncSession, session]) -> None:
        await session.execute(select(Item.id).limit(1))
        await session.execute(insert(Item).values(name=name))

    return app


class Clients:
    """Clients that store rows and often leave before the answer."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self.sent: list[str] = []
        self.stored: set[str] = set()
        self.statuses = Counter[int]()
        self.last_error_at = 0.0
        self.details = Counter[str]()
        self._port = port
        self._chance = chance

    async def store(self, *, timeout: float) -> int:
        name = f"n{len(self.sent):05}"
        self.sent.append(name)
        answer = await request(self._port, "POST", f"/items/{name}", timeout=timeout)
        if answer.status == 201:
            self.stored.add(name)
        elif answer.status != 0:
            self.last_error_at = time.monotonic()
        if answer.status >= 500:
            self.details[answer.body.decode()] += 1
        self.statuses[answer.status] += 1
        return answer.status

    async def until_served(self, number: int) -> None:
        """Return when so many patient requests in a row were served."""
        streak = 0
        while streak < number:
            streak = streak + 1 if await self.store(timeout=5.0) == 201 else 0

    async def run(self) -> None:
        while len(self.sent) < REQUESTS:
            leaves = self._chance.random() < 0.5
            await self.store(timeout=self._chance.random() * 0.1 if leaves else 5.0)


@pytest.fixture
async def server(postgres_url: str) -> AsyncIterator[Server]:
    """A PostgreSQL of the test's own, which loses nothing it acknowledged when it is killed."""
    with own_server(postgres_url) as server:
        server.initialize()
        server.start()
        await server.wait_until_up()
        yield server


async def happened(fault: str, server: Server, relay: Relay) -> None:
    """Do it to the database, and return when that is over."""
    if fault == "killed":
        server.kill()
        await asyncio.sleep(1)
        server.start()
        await server.wait_until_up()
    else:
        relay.is_silent = True
        await asyncio.sleep(3)
        relay.is_silent = False


@pytest.mark.parametrize("number", [10, 40])
@pytest.mark.parametrize("fault", ["killed", "silent"])
async def test_a_storm_leaves_nothing_and_is_over_soon_after_the_database_is_back(
    fault: str, number: int, server: Server
) -> None:
    """2,000 requests, half of whose clients leave; `kill -9` of the whole server, or a silence."""
    relay = Relay(server.url())
    await relay.start()
    url = relay.url if fault == "silent" else server.url()
    database = stormproof.Database(url, pool_size=5, max_overflow=0)
    async with database, database.engine.begin() as connection:
        await connection.run_sync(Model.metadata.create_all)
    async with served(service(database)) as port:
        clients = Clients(port, random.Random(7))
        running = [asyncio.create_task(clients.run()) for _ in range(number)]
        await until(lambda: len(clients.sent) > REQUESTS / 3, timeout=300)
        before = clients.last_error_at
        _log.info(f"{fault}: before {clients.statuses}")
        await happened(fault, server, relay)
        back_at = time.monotonic()
        await asyncio.gather(*running)
        await clients.until_served(20)
        over = clients.last_error_at - back_at
        _log.info(f"{fault}, {number} clients: last error {over:.2f} s after it was back, {before}")
        await until(lambda: database.statistics().in_use == 0, timeout=30)
        _log.info(f"{fault}: {len(clients.sent)} requests, {dict(clients.statuses)}")
        _log.info("\n".join(f"{number:5} {detail}" for detail, number in clients.details.items()))
        async with database.read_session() as session:
            stored = list(await session.scalars(select(Item.name)))
        assert clients.stored <= set(stored)
        assert set(stored) <= set(clients.sent)
        assert len(stored) == len(set(stored))
        assert database.holders() == ()
        assert set(clients.statuses) <= {0, 201, 503, 504}
        assert over < 15  # the bar is 3 s on a quiet machine
    await relay.stop()


async def test_a_thousand_requests_of_which_a_fifth_cannot_be_committed(refusing_url: str) -> None:
    """201 means stored, and what is stored was answered 201."""
    chance = random.Random(3)
    async with loaded(OURS, refusing_url) as service:
        acknowledged: set[str] = set()
        statuses = Counter[int]()
        numbers = iter(range(1000))

        async def client() -> None:
            for number in numbers:
                good = chance.random() < 0.8
                answer = await service.create(f"n{number:04}", quantity=1 if good else 7)
                statuses[answer.status] += 1
                if answer.status == 201:
                    acknowledged.add(f"n{number:04}")
                if not good:
                    assert (answer.status, json.loads(answer.body)["code"]) == (409, "SP409")

        await asyncio.gather(*(client() for _ in range(5)))
        assert set(await service.item_names()) == acknowledged
        assert set(statuses) == {201, 409}
        assert 100 < statuses[409] < 300
