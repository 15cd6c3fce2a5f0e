"""What the tests of jobs share: other workers, and waiting for where a job stands."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from stormproof.database import Database
from stormproof.jobs import Job, Jobs, JobState
from tests.harness import until


class Open:
    """Opens workers on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def new(self, **options: Any) -> Jobs:
        return Jobs(self._database, **options)

    @asynccontextmanager
    async def __call__(self, jobs: Jobs) -> AsyncIterator[Jobs]:
        await jobs.open()
        try:
            yield jobs
        finally:
            await jobs.close()


async def stands(jobs: Jobs, job_id: int | None, *states: JobState) -> JobState:
    """Wait until the job stands as one of `states`."""
    assert job_id is not None

    async def state() -> JobState | None:
        now = await jobs.status(job_id)
        return now if now in states else None

    try:
        found = await until(state, 20.0, what=f"job {job_id} to be {states}")
    except TimeoutError as late:
        late.add_note(f"it is {await jobs.status(job_id)}; {jobs.statistics()}")
        raise
    assert found is not None
    return found


class Log:
    """What jobs have noted, in its order."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    def add(self, job: Job, *words: Any) -> None:
        self.lines.append((job.id, job.start, *words))
