"""Workers in processes that are killed, poisoned or blocked, on both databases."""

import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import TypeAlias

import pytest
from sqlalchemy import text

from stormproof.database import Database
from stormproof.jobs import Job, Jobs
from stormproof.jobs._process import this_process
from tests.harness import ServerProcess, until

from .poison import declare
from .work import Open, stands

pytestmark = pytest.mark.storm  # each starts processes

Peer: TypeAlias = Callable[[], AbstractAsyncContextManager[ServerProcess]]


@pytest.fixture
def peer(url: str, database: Database) -> Peer:
    """A worker in a process of its own, which is killed at the end of the block."""

    @asynccontextmanager
    async def started() -> AsyncIterator[ServerProcess]:
        command = [sys.executable, "-m", "tests.jobs.poison", url, "1.0"]
        async with ServerProcess(command) as process:
            await process.wait_for_line("open", 15.0)
            yield process

    return started


async def enqueue(jobs: Jobs, database: Database, task: str, **arguments: float) -> int:
    async with database.session() as session:
        handle = await jobs.tasks[task].enqueue(session, **arguments)
    assert handle.id is not None
    return handle.id


async def test_a_killed_process_has_its_jobs_done_by_others_within_two_seconds(
    jobs: Jobs, database: Database, peer: Peer
) -> None:
    enqueuer = Jobs(database, worker=False)
    declare(enqueuer)
    declare(jobs)
    await enqueuer.open()
    async with peer() as process:
        job_id = await enqueue(enqueuer, database, "wait")
        await process.wait_for_line("wait 1")
        await jobs.open()
        process.signal(SIGKILL)
        killed_at = time.monotonic()
        await stands(jobs, job_id, "done")
        assert time.monotonic() - killed_at < 3.0
    assert jobs.statistics().reaped == 1
    await enqueuer.close()


async def test_a_process_killed_on_another_machine_has_its_jobs_done_by_others(
    database: Database, peer: Peer, opened: Open
) -> None:
    """Nobody here can see that it is dead: its heartbeat goes stale."""
    table = "stormproof_jobs_workers"
    elsewhere = text(f"UPDATE {table} SET process = 'elsewhere|1|1' WHERE process <> :here")
    enqueuer, other = opened.new(worker=False), opened.new(stale_after=1.0, poll=0.2)
    declare(enqueuer)
    declare(other)
    async with opened(enqueuer), peer() as process:
        job_id = await enqueue(enqueuer, database, "wait")
        await process.wait_for_line("wait 1")
        async with database.session() as session:
            await session.execute(elsewhere, {"here": this_process()})
        async with opened(other):
            process.signal(SIGKILL)
            await stands(other, job_id, "done")
            await until(lambda: other.statistics().done == 1)
            assert other.statistics().reaped == 0


async def test_a_job_that_kills_its_process_is_held_and_the_others_go_on(
    jobs: Jobs, database: Database, peer: Peer
) -> None:
    enqueuer = Jobs(database, worker=False)
    declare(enqueuer)
    declare(jobs)
    await enqueuer.open()
    poison = await enqueue(enqueuer, database, "poison")
    for start in (1, 2, 3):
        async with peer() as process:
            await process.wait_for_line(f"poison {start}")
            await process.wait_exit()
    harmless = await enqueue(enqueuer, database, "block", seconds=0.0)
    await jobs.open()
    await stands(jobs, harmless, "done")
    await stands(jobs, poison, "held")
    (held,) = await jobs.held()
    assert "was started 3 times, and none of its starts has ended" in held.last_words
    assert "died in the middle of it" in held.last_words
    await enqueuer.close()


async def test_a_job_that_blocks_its_loop_is_not_started_twice(
    jobs: Jobs, database: Database, peer: Peer
) -> None:
    enqueuer = Jobs(database, worker=False)
    other = Jobs(database, stale_after=1.0, poll=0.1)
    declare(enqueuer)
    declare(other)
    await enqueuer.open()
    async with peer() as process:
        job_id = await enqueue(enqueuer, database, "block", seconds=2.5)
        await process.wait_for_line("block 1")
        await other.open()
        await stands(other, job_id, "done")
        assert other.statistics().done == 0
        assert "block 2" not in process.stdout
    await other.close()
    await enqueuer.close()


async def test_a_suspended_process_loses_its_job_and_hears_of_it_when_it_wakes(
    database: Database, peer: Peer, opened: Open
) -> None:
    enqueuer, other = opened.new(worker=False), opened.new(stale_after=1.0, poll=0.2)
    declare(enqueuer)
    declare(other)
    async with opened(enqueuer), peer() as process:
        job_id = await enqueue(enqueuer, database, "wait")
        await process.wait_for_line("wait 1")
        process.signal(SIGSTOP)
        async with opened(other):
            await stands(other, job_id, "done")
            await until(lambda: other.statistics().done == 1)
            assert other.statistics().reaped == 0
        process.signal(SIGCONT)
        await process.wait_for_line("wait cut")
        assert await enqueuer.status(job_id) == "done"
        again = await enqueue(enqueuer, database, "block", seconds=0.0)
        await stands(enqueuer, again, "done")  # the one that woke works on


APP = """
import asyncio
import os
from fastapi import FastAPI
import stormproof

app = FastAPI()
database = stormproof.Database(os.environ["DATABASE_URL"])
jobs = stormproof.Jobs(database, worker=False)
stormproof.install(app, database, jobs, prestop=10)

@jobs.task()
async def work(seconds: float) -> None:
    print("begins", flush=True)
    await asyncio.sleep(seconds)
"""


async def test_sigterm_to_the_worker_command_strands_nothing(
    url: str, database: Database, opened: Open
) -> None:
    """Ten jobs run there, twenty wait: within a grace of 3 s all are somebody else's."""
    enqueuer, other = opened.new(worker=False), opened.new()
    starts: list[tuple[int, float]] = []

    @enqueuer.task(name="work")
    async def enqueued(seconds: float) -> None: ...

    @other.task()
    async def work(seconds: float, job: Job) -> None:
        starts.append((job.start, time.monotonic()))

    command = [sys.executable, "-m", "stormproof", "worker", "app:app", "--grace", "3"]
    process = ServerProcess(command, files={"app.py": APP}, env={"DATABASE_URL": url})
    async with opened(enqueuer):
        async with database.session() as session:
            await enqueued.enqueue_many(session, [{"seconds": 60}] * 30)
        async with process:
            await until(lambda: process.stdout.count("begins") == 10, 30.0)
            async with opened(other):
                await until(lambda: len(starts) == 20)
                process.signal(SIGTERM)
                assert await process.wait_exit(4.0) == 0
                ended_at = time.monotonic()
                await until(lambda: len(starts) == 30)
                assert starts[-1][1] - ended_at < 1.0
                assert {start for start, _ in starts} == {1}
                assert other.statistics().reaped == 0
