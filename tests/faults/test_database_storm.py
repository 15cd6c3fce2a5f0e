"""Clients that leave, a database that is killed or silent: nothing leaks, nothing is wrong."""

import asyncio
import contextlib
import json
import logging
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from signal import SIGKILL
from typing import Annotated

import asyncpg
import pytest
from fastapi import FastAPI
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

import stormproof
from tests.database.model import Item, Model
from tests.database.test_server import Relay
from tests.harness import request, until

from .database_service import OURS, loaded
from .in_process import served
from .test_database_commit import refusing_url as refusing_url

_log = logging.getLogger(__name__)

pytestmark = pytest.mark.storm

REQUESTS = 2_000
CLIENTS = 10


def service(database: stormproof.Database) -> FastAPI:
    """An app that stores a row in two statements, within a second."""
    app = FastAPI()
    stormproof.install(app, database, deadline=1.0, prestop=0)
    session = stormproof.session(database)

    @app.post("/items/{name}", status_code=201)
    async def store(name: str, session: Annotated[AsyncSession, session]) -> None:
        await session.execute(select(Item.id).limit(1))
        await session.execute(insert(Item).values(name=name))

    return app


@pytest.fixture
async def relay(postgres_database: str) -> AsyncIterator[Relay]:
    relay = Relay(postgres_database)
    await relay.start()
    yield relay
    await relay.stop()


class Clients:
    """Clients that store rows and often leave before the answer."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self.sent: list[str] = []
        self.stored: set[str] = set()
        self.statuses = Counter[int]()
        self._port = port
        self._chance = chance

    async def store(self, *, timeout: float) -> int:
        name = f"n{len(self.sent):05}"
        self.sent.append(name)
        answer = await request(self._port, "POST", f"/items/{name}", timeout=timeout)
        if answer.status == 201:
            self.stored.add(name)
        self.statuses[answer.status] += 1
        return answer.status

    async def run(self) -> None:
        while len(self.sent) < REQUESTS:
            leaves = self._chance.random() < 0.5
            await self.store(timeout=self._chance.random() * 0.1 if leaves else 5.0)


async def kill_a_backend(url: str) -> None:
    """`kill -9` of one server process: PostgreSQL ends all others and recovers."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
        os.kill(pid, SIGKILL)
    finally:
        connection.terminate()


async def wait_for(url: str) -> None:
    """Wait until the server takes connections again."""

    async def is_back() -> bool:
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            await (await asyncpg.connect(url.replace("+asyncpg", ""), timeout=2)).close()
            return True
        return False

    await until(is_back, timeout=60, what="PostgreSQL to be back")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[stormproof.Database]:
    # The test server has it off, and so loses what it acknowledged last when it is killed.
    durable = {"connect_args": {"server_settings": {"synchronous_commit": "on"}}}
    database = stormproof.Database(url, pool_size=5, max_overflow=0, engine_options=durable)
    async with database, database.engine.begin() as connection:
        await connection.run_sync(Model.metadata.create_all)
    yield database


@pytest.mark.parametrize("fault", ["killed", "silent"])
async def test_a_storm_leaves_nothing_and_is_over_soon_after_the_database_is_back(
    fault: str, postgres_database: str, relay: Relay
) -> None:
    async with opened(relay.url) as database, served(service(database)) as port:
        clients = Clients(port, random.Random(7))
        running = [asyncio.create_task(clients.run()) for _ in range(CLIENTS)]
        await until(lambda: len(clients.sent) > REQUESTS / 3, timeout=300)
        if fault == "killed":
            await kill_a_backend(postgres_database)
            await wait_for(postgres_database)
        else:
            relay.is_silent = True
            await asyncio.sleep(3)
            relay.is_silent = False
        back_at = time.monotonic()
        streak = 0
        while streak < 20:
            streak = streak + 1 if await clients.store(timeout=5.0) == 201 else 0
            if streak == 1:
                recovered = time.monotonic() - back_at
        _log.info(f"{fault}: served again {recovered:.2f} s after the database was back")
        await asyncio.gather(*running)
        await until(lambda: database.statistics().in_use == 0, timeout=30)
        _log.info(f"{fault}: {len(clients.sent)} requests, {dict(clients.statuses)}")
        async with database.read_session() as session:
            stored = list(await session.scalars(select(Item.name)))
        assert clients.stored <= set(stored)
        assert set(stored) <= set(clients.sent)
        assert len(stored) == len(set(stored))
        assert database.holders() == ()
        assert set(clients.statuses) <= {0, 201, 503, 504}
        assert recovered < 15  # the bar is 3 s on a quiet machine


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
