"""Cron: each time once, whoever many workers there are."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from stormproof.database import Database
from stormproof.errors import InvalidSetting
from stormproof.jobs import Jobs
from stormproof.jobs._cron import Cron, Schedule
from stormproof.jobs._facts import NewJob

from .work import Open, stands


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


class Clock:
    def __init__(self) -> None:
        self.time = at("2030-01-01T12:00:30")

    def now(self) -> float:
        return self.time


def cron_of(jobs: Jobs, database: Database, clock: Clock) -> Cron:
    async def enqueue(session: Any, task: Any, key: str) -> None:
        await jobs.store_jobs(session, [NewJob(task.name, task.arguments.dump(), key)])

    return Cron(jobs._schedules, database.session, enqueue, now=clock.now)


async def test_each_time_is_one_job_and_missed_times_are_one(
    opened: Open, database: Database
) -> None:
    jobs, clock = opened.new(worker=False), Clock()

    @jobs.cron("*/10 * * * *")
    async def tidy() -> None: ...

    async with opened(jobs):
        crons = [cron_of(jobs, database, clock) for _ in range(3)]

        async def tick() -> set[float]:
            return set(await asyncio.gather(*(cron.tick() for cron in crons)))

        await crons[0].tick()
        assert await tick() == {at("2030-01-01T12:10:00")}
        assert await jobs.status(1) is None
        clock.time = at("2030-01-01T12:10:00")
        assert await tick() == {at("2030-01-01T12:20:00")}
        assert await jobs.status(1) == "queued"
        assert await jobs.cancel(1) == 1
        clock.time = at("2030-01-01T15:03:00")  # many times were missed
        assert await tick() == {at("2030-01-01T15:10:00")}
        assert await jobs.cancel(*range(2, 10)) == 1
        assert await tick() == {at("2030-01-01T15:10:00")}
        assert await jobs.cancel(*range(2, 20)) == 0


async def test_a_worker_enqueues_at_its_times_by_itself(jobs: Jobs, database: Database) -> None:
    done = asyncio.Event()

    @jobs.cron("* * * * * *")  # a sixth field: seconds
    async def tidy() -> None:
        done.set()

    await jobs.open()
    async with asyncio.timeout(5):
        await done.wait()


def test_the_hours_are_those_of_the_time_zone_also_when_the_clocks_change() -> None:
    nightly = Schedule("0 3 * * *", "Europe/Paris")
    assert nightly.next_after(at("2030-03-30T12:00:00")) == at("2030-03-31T01:00:00")  # UTC+2
    assert nightly.next_after(at("2030-01-30T12:00:00")) == at("2030-01-31T02:00:00")  # UTC+1
    with pytest.raises(InvalidSetting, match="cron"):
        Schedule("every day", "UTC")
    with pytest.raises(InvalidSetting, match="Atlantis"):
        Schedule("0 3 * * *", "Atlantis")


async def test_what_a_job_says_and_returns_can_be_asked_for(jobs: Jobs, database: Database) -> None:
    from stormproof.jobs import Job

    @jobs.task(keep_result=True)
    async def count(job: Job) -> dict[str, int]:
        await job.report(0.5, "half of it")
        return {"rows": 7}

    await jobs.open()
    async with database.session() as session:
        handle = await count.enqueue(session)
    await stands(jobs, handle.id, "done")
    outcome = await jobs.outcome(handle.id or 0)
    assert (outcome.fraction, outcome.message, outcome.result) == (1.0, "half of it", {"rows": 7})
    assert (await jobs.outcome(999)).fraction is None
