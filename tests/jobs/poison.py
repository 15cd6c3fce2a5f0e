"""A process with a worker: `python -m tests.jobs.poison URL STALE_AFTER`; prints what it starts."""

import asyncio
import os
import sys
import time
from signal import SIGKILL

from stormproof.database import Database
from stormproof.jobs import Job, Jobs


def declare(jobs: Jobs) -> None:
    """Declare the tasks that both sides know."""

    @jobs.task(max_starts=3)
    async def poison(job: Job) -> None:
        say(f"poison {job.start}")
        os.kill(os.getpid(), SIGKILL)

    @jobs.task()
    async def block(job: Job, seconds: float) -> None:
        say(f"block {job.start}")
        time.sleep(seconds)  # the loop is blocked, which is the point

    @jobs.task()
    async def wait(job: Job) -> None:
        say(f"wait {job.start}")
        try:
            await asyncio.sleep(60 if job.start == 1 else 0)
        except asyncio.CancelledError:
            say("wait cut")
            raise


def say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


async def main(url: str, stale_after: str) -> None:
    database = Database(url, unready_after=None)
    jobs = Jobs(database, stale_after=float(stale_after))
    declare(jobs)
    async with database, jobs:
        say("open")
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
