"""One worker of the jobs storm: `python -m tests.faults.jobs_storm URL STARTS_FILE`."""

import asyncio
import os
import sys
from pathlib import Path

from sqlalchemy import text

import stormproof


def declare(jobs: stormproof.Jobs, database: stormproof.Database, starts: int | None) -> None:
    """Declare the job: note the start where no crash can undo it, then the effect, once."""

    @jobs.task(retries=1000, backoff=0.02, max_backoff=0.5, max_starts=1000)
    async def effect(number: int, job: stormproof.Job) -> None:
        if starts is not None:
            os.write(starts, f"{number} {job.start}\n".encode())
        async with database.session() as session, job.once(session):
            await session.execute(text("INSERT INTO effects VALUES (:n)"), {"n": number})


async def main(url: str, path: str) -> None:
    starts = os.open(Path(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    database = stormproof.Database(url, max_wait=10.0, unready_after=None, wait_for_start=10.0)
    jobs = stormproof.Jobs(database, stale_after=4.0, create_tables=False)
    declare(jobs, database, starts)
    async with database, jobs:
        sys.stdout.write("open\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
