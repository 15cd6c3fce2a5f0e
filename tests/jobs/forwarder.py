"""A process that forwards: `python -m tests.jobs.forwarder URL`; prints what it publishes.

Its broker takes the first message of a file and kills the process before it can say so.
"""

import asyncio
import os
import sys
from pathlib import Path
from signal import SIGKILL

from taskiq import InMemoryBroker
from taskiq.message import BrokerMessage

from stormproof.database import Database
from stormproof.jobs import Jobs, JobTask


class Broker(InMemoryBroker):
    def __init__(self, mark: Path) -> None:
        super().__init__()
        self._mark = mark

    async def kick(self, message: BrokerMessage) -> None:
        sys.stdout.write(f"published {message.task_id}\n")
        sys.stdout.flush()
        if not self._mark.exists():
            self._mark.touch()
            os.kill(os.getpid(), SIGKILL)


def declare(jobs: Jobs, mark: Path) -> JobTask[...]:
    broker = Broker(mark)

    @broker.task(task_name="ship")
    async def ship(order: int) -> None: ...

    return jobs.forward(to=ship)


async def main(url: str, mark: str) -> None:
    database = Database(url, unready_after=None)
    jobs = Jobs(database)
    declare(jobs, Path(mark))
    async with database, jobs:
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
