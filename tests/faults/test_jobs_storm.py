"""10,000 requests, a fifth undone, workers and database killed: nothing lost, nothing twice."""

import asyncio
import logging
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from signal import SIGKILL

import pytest
from sqlalchemy import text

import stormproof
from stormproof.database import SyncSession
from tests.harness import ServerProcess, until
from tests.harness.postgres import RestartablePostgres

from .jobs_storm import declare

_log = logging.getLogger(__name__)

pytestmark = pytest.mark.storm

REQUESTS = 10_000
CLIENTS = 10
WORKERS = 4
KILLS = 10

ORDER = text("INSERT INTO orders VALUES (:n)")


class Undone(Exception):
    """The request is rolled back."""


@pytest.fixture
def server() -> Iterator[RestartablePostgres]:
    server = RestartablePostgres()
    yield server
    server.close()


class Storm:
    """The requests on one side, the workers on the other, and what kills them."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.starts = folder / "starts"
        self.acknowledged: set[int] = set()
        self.asked = 0
        self.kills = 0
        self._workers: list[ServerProcess] = []
        self._stack = AsyncExitStack()

    @asynccontextmanager
    async def workers(self) -> AsyncIterator[None]:
        async with self._stack:
            await asyncio.gather(*(self._start() for _ in range(WORKERS)))
            yield

    async def _start(self) -> None:
        command = [sys.executable, "-m", "tests.faults.jobs_storm", self.url, str(self.starts)]
        process = await self._stack.enter_async_context(ServerProcess(command))
        await process.wait_for_line("open", 60.0)
        self._workers.append(process)

    async def kill(self) -> None:
        """Kill a worker as requests go on, KILLS times, and start another in its place."""
        for number in range(KILLS):
            due = (number + 1) * REQUESTS // (KILLS + 2)
            await until(lambda due=due: self.asked >= due, 300.0)
            victim = self._workers.pop(random.randrange(len(self._workers)))
            victim.signal(SIGKILL)
            self.kills += 1
            await self._start()

    async def ask(
        self, jobs: stormproof.Jobs, database: stormproof.Database, numbers: Iterator[int]
    ) -> None:
        """Make requests: an order and its job in one transaction; every fifth is undone.

        Every second one does it in a thread, as a `def` endpoint.
        """
        task = jobs.tasks["effect"]

        def in_thread(session: SyncSession, number: int) -> None:
            session.execute(ORDER, {"n": number})
            task.enqueue_sync(session, number)

        for number in numbers:
            self.asked = max(self.asked, number)
            with suppress(Undone, stormproof.errors.StormproofError):
                if number % 2:
                    async with database.sync_session() as session:
                        await asyncio.to_thread(in_thread, session, number)
                        raise_if_undone(number)
                else:
                    async with database.session() as work:
                        await work.execute(ORDER, {"n": number})
                        await task.enqueue(work, number)
                        raise_if_undone(number)
                self.acknowledged.add(number)


def raise_if_undone(number: int) -> None:
    if number % 5 == 0:
        raise Undone


async def run(storm: Storm, restart: RestartablePostgres | None) -> None:
    database = stormproof.Database(
        storm.url, max_wait=10.0, unready_after=None, pool_size=CLIENTS, idle_in_transaction=None
    )
    jobs = stormproof.Jobs(database, worker=False)
    declare(jobs, database, None)
    async with database, jobs:
        async with database.session() as session:
            for table in ("orders", "effects"):
                await session.execute(text(f"CREATE TABLE {table} (n BIGINT)"))
        async with storm.workers():
            numbers = iter(range(REQUESTS))
            async with asyncio.TaskGroup() as group:
                group.create_task(storm.kill())
                for _ in range(CLIENTS):
                    group.create_task(storm.ask(jobs, database, numbers))
                if restart is not None:
                    await until(lambda: storm.asked >= REQUESTS // 2, 300.0)
                    await asyncio.to_thread(restart.restart)
            await settled(database)
        await judged(storm, database, jobs)


async def settled(database: stormproof.Database) -> None:
    """Wait until each order has its effect, and nothing comes any more."""
    missing = text("SELECT count(*) FROM orders WHERE n NOT IN (SELECT n FROM effects)")

    async def is_settled() -> bool:
        with suppress(stormproof.errors.StormproofError):
            async with database.read_session() as session:
                return await session.scalar(missing) == 0
        return False

    await until(is_settled, 240.0)


async def judged(storm: Storm, database: stormproof.Database, jobs: stormproof.Jobs) -> None:
    async with database.read_session() as session:
        orders = set(await session.scalars(text("SELECT n FROM orders")))
        effects = Counter(await session.scalars(text("SELECT n FROM effects")))
    starts: dict[int, list[int]] = {}
    for line in storm.starts.read_text().splitlines():
        number, start = map(int, line.split())
        starts.setdefault(number, []).append(start)
    again = sum(len(seen) - 1 for seen in starts.values())
    _log.warning(
        "%d orders, %d acknowledged, %d kills, %d starts, %d of them again",
        len(orders), len(storm.acknowledged), storm.kills,
        sum(map(len, starts.values())), again,
    )  # fmt: skip
    assert storm.kills == KILLS
    assert storm.acknowledged <= orders  # 0 lost
    assert set(effects) == orders  # 0 phantom
    assert set(effects.values()) == {1}  # exactly once
    assert await jobs.held() == []
    for seen in starts.values():  # each start has a number of its own
        assert len(set(seen)) == len(seen) <= max(seen)


async def test_nothing_is_lost_or_done_twice_on_sqlite(tmp_path: Path) -> None:
    await run(Storm(f"sqlite:///{tmp_path}/storm.db", tmp_path), None)


async def test_nothing_is_lost_or_done_twice_on_postgresql(
    server: RestartablePostgres, tmp_path: Path
) -> None:
    url = server.url
    async with stormproof.Database(url, unready_after=None) as database:
        connection = await database.engine.connect()
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        # What is acknowledged must survive the crash of this server.
        await connection.execute(text("ALTER DATABASE postgres SET synchronous_commit = on"))
        await connection.close()
    await run(Storm(url, tmp_path), server)
