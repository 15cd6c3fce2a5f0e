"""One engine's no-op jobs: `python bench/jobs_peers.py ENGINE URL COUNT` prints jobs per second.

Each runs in a process of its own: all jobs are stored first, then one worker runs them, ten at
once, each engine's own way. URL is a PostgreSQL, a Redis, or the path of a SQLite file.
"""

# ruff: noqa: T201

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

AT_ONCE = 10
PATIENCE = 120.0


class Count:
    """Counts jobs that have run, and tells when the last one has."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.done = 0
        self.began_at = 0.0
        self.ended_at = 0.0
        self.is_over = asyncio.Event()

    def begin(self) -> None:
        """Note that the worker starts now."""
        self.began_at = time.perf_counter()

    def add(self) -> None:
        """Count one job."""
        self.done += 1
        if self.done == self.most:
            self.ended_at = time.perf_counter()
            self.is_over.set()

    def rate(self) -> float:
        """Return the jobs per second."""
        return self.most / (self.ended_at - self.began_at)


async def stormproof(url: str, count: Count) -> None:
    """Run the jobs with stormproof."""
    from stormproof.database import Database
    from stormproof.jobs import Jobs

    database = Database(url, unready_after=None)
    storing, running = Jobs(database, worker=False), Jobs(database, concurrency=AT_ONCE)

    async def noop(number: int) -> None:
        count.add()

    task = storing.task(name="noop")(noop)
    running.task(name="noop")(noop)
    async with database, storing:
        async with database.session() as session:
            await task.enqueue_many(session, [{"number": n} for n in range(count.most)])
        count.begin()
        async with running, asyncio.timeout(PATIENCE):
            await count.is_over.wait()


async def procrastinate(url: str, count: Count) -> None:
    """Run the jobs with procrastinate."""
    import procrastinate as peer

    app = peer.App(connector=peer.PsycopgConnector(conninfo=url.replace("+asyncpg", "")))

    @app.task(name="noop")
    async def noop(number: int) -> None:
        count.add()

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await noop.batch_defer_async(*({"number": n} for n in range(count.most)))
        count.begin()
        await app.run_worker_async(concurrency=AT_ONCE, wait=False, install_signal_handlers=False)


async def saq(url: str, count: Count) -> None:
    """Run the jobs with saq."""
    from saq import Queue, Worker

    async def noop(_: Any, *, number: int) -> None:
        count.add()

    queue = Queue.from_url(url.replace("+asyncpg", ""))
    await queue.connect()
    for number in range(count.most):
        await queue.enqueue("noop", number=number)
    worker: Any = Worker(queue, functions=[("noop", noop)], concurrency=AT_ONCE)
    count.begin()
    running = asyncio.create_task(worker.start())
    async with asyncio.timeout(PATIENCE):
        await count.is_over.wait()
    await worker.stop()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await queue.disconnect()


async def taskiq(url: str, count: Count) -> None:
    """Run the jobs with taskiq."""
    from taskiq.api import run_receiver_task
    from taskiq_redis import ListQueueBroker

    broker = ListQueueBroker(url)

    @broker.task(task_name="noop")
    async def noop(number: int) -> None:
        count.add()

    await broker.startup()
    for number in range(count.most):
        await noop.kiq(number)
    broker.is_worker_process = True
    count.begin()
    running = asyncio.create_task(run_receiver_task(broker, max_async_tasks=AT_ONCE))
    async with asyncio.timeout(PATIENCE):
        await count.is_over.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await broker.shutdown()


async def huey(url: str, count: Count) -> None:
    """Run the jobs with huey."""
    from huey import SqliteHuey

    app = SqliteHuey("bench", filename=url)
    loop = asyncio.get_running_loop()

    @app.task()
    def noop(number: int) -> None:
        loop.call_soon_threadsafe(count.add)

    for number in range(count.most):
        noop(number)
    consumer = app.create_consumer(workers=AT_ONCE, worker_type="thread", periodic=False)
    count.begin()
    consumer.start()
    async with asyncio.timeout(PATIENCE):
        await count.is_over.wait()
    consumer.stop()


async def dbos(url: str, count: Count) -> None:
    """Run the jobs with dbos."""
    from dbos import DBOS

    DBOS(config={"name": "bench", "system_database_url": url.replace("+asyncpg", "")})
    loop = asyncio.get_running_loop()

    @DBOS.workflow()
    def noop(number: int) -> None:
        loop.call_soon_threadsafe(count.add)

    DBOS.launch()
    queue = await DBOS.register_queue_async(
        "bench", worker_concurrency=AT_ONCE, polling_interval_sec=0.02
    )
    count.begin()
    await asyncio.to_thread(lambda: [queue.enqueue(noop, n) for n in range(count.most)])
    async with asyncio.timeout(PATIENCE):
        await count.is_over.wait()
    DBOS.destroy()


ENGINES: dict[str, Callable[[str, Count], Coroutine[Any, Any, None]]] = {
    made.__name__: made for made in (stormproof, procrastinate, saq, taskiq, huey, dbos)
}


async def main(engine: str, url: str, most: str) -> None:
    """Run one engine and print its rate."""
    count = Count(int(most))
    await ENGINES[engine](url, count)
    print(f"rate {count.rate():.0f}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
