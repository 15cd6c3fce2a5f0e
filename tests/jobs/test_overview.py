"""The overview: what stands where, on both databases."""

import asyncio

import pytest

from stormproof.database import Database
from stormproof.jobs import Jobs, _sqlite_sql
from tests.harness import until

from .work import Open, stands


@pytest.mark.parametrize("url", ["memory", "sqlite", "postgres"], indirect=True)
async def test_an_overview_counts_by_task_and_state(opened: Open, database: Database) -> None:
    jobs, other = opened.new(), opened.new(worker=False)
    may_end = asyncio.Event()

    @jobs.task()
    async def runs() -> None:
        await may_end.wait()

    @jobs.task(retries=0)
    async def fails() -> None:
        raise ConnectionError("the printer is off")

    @other.task()
    async def elsewhere() -> None: ...

    async with opened(jobs), opened(other):
        async with database.session() as session:
            await runs.enqueue(session)
            await runs.enqueue(session, delay=60)
            failed = await fails.enqueue(session)
            await elsewhere.enqueue_many(session, [{}, {}])
        await stands(jobs, failed.id, "held")
        await until(lambda: jobs.statistics().running == 1)
        seen = await jobs.overview()
        may_end.set()
    tasks, (last,) = seen["tasks"], seen["held"]
    assert seen["unknown"] == ["elsewhere"]
    assert 0 <= tasks["elsewhere"].pop("oldest_waiting") < 10
    for task in ("fails", "runs"):
        assert not tasks[task].pop("oldest_waiting")  # nothing of it could start
    assert tasks == {
        "elsewhere": {"queued": 2, "delayed": 0, "running": 0, "held": 0},
        "fails": {"queued": 0, "delayed": 0, "running": 0, "held": 1},
        "runs": {"queued": 0, "delayed": 1, "running": 1, "held": 0},
    }
    assert last["id"] == failed.id
    assert "the printer is off" in last["last_words"]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_counting_reads_indexes_alone(jobs: Jobs, database: Database) -> None:
    """The rows hold the payloads; beside 100,000 of them the worker would stand still."""
    await jobs.open()
    async with database.read_session() as session:
        connection = await session.connection()
        plan = await connection.exec_driver_sql(
            f"EXPLAIN QUERY PLAN {_sqlite_sql.COUNTS}", (0.0, 0.0, 0.0)
        )
        steps = [row[-1] for row in plan if "stormproof_jobs" in row[-1]]
    assert len(steps) == 4
    assert all(" USING INDEX stormproof_jobs_" in step for step in steps), steps
