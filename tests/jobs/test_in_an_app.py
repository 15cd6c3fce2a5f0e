"""Jobs in a FastAPI app: their dependencies, tasks that are handed over, the worker command."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from signal import SIGTERM
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Header
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

import stormproof
from stormproof.database import Database
from stormproof.jobs import Job, Jobs
from tests.harness import ServerProcess

from .work import stands


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/test.db"


async def test_dependencies_are_solved_without_a_request_and_end_with_the_job(
    database: Database, jobs: Jobs
) -> None:
    app, log = FastAPI(), list[str]()
    stormproof.install(app, jobs)

    async def mailer() -> AsyncIterator[str]:
        log.append("mailer opens")
        yield "mailer"
        log.append("mailer closes")

    def place() -> str:
        return "Paris"

    def language(accept_language: Annotated[str, Header()]) -> str:
        return accept_language

    app.dependency_overrides[place] = lambda: "Rome"

    @jobs.task(retries=0)
    async def send(
        to: str,
        session: Annotated[AsyncSession, stormproof.session(database)],
        job: Job = Depends(stormproof.current_job),
        mailer: str = Depends(mailer),
        place: str = Depends(place),
    ) -> None:
        await session.execute(text("CREATE TABLE sent (a TEXT)"))
        log.append(f"{mailer} sends to {to} in {place}, job {job.id}")

    @jobs.task(retries=0)
    async def translate(language: str = Depends(language)) -> None: ...

    await jobs.open()
    async with database.session() as session:
        sent = await send.enqueue(session, "ann")
        translated = await translate.enqueue(session)
    await stands(jobs, sent.id, "done")
    assert log == ["mailer opens", f"mailer sends to ann in Rome, job {sent.id}", "mailer closes"]
    async with database.read_session() as session:
        assert await session.scalar(text("SELECT count(*) FROM sent")) == 0
    await stands(jobs, translated.id, "held")
    assert "wants header.accept-language of a request" in (await jobs.held())[0].last_words


async def test_tasks_that_a_drain_cuts_go_on_as_jobs(database: Database) -> None:
    jobs = Jobs(database, worker=False)
    tasks = stormproof.Tasks(handover=jobs.handover)

    @jobs.task()
    async def wait(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def unknown() -> None:
        await asyncio.sleep(60)

    await jobs.open()
    await tasks.open()
    handing = tasks.options(on_shutdown="handover")
    known = handing.spawn(wait, 60)
    handing.spawn(unknown)
    losses = await tasks.drain(time.monotonic() + 1)
    assert known.state == "handed_over"
    assert [loss.kind for loss in losses] == ["handover"]
    assert await jobs.status(1) == "queued"
    await tasks.close()
    await jobs.close()


APP = """
import asyncio
import sys
from fastapi import FastAPI
import stormproof

app = FastAPI()
database = stormproof.Database("sqlite:///test.db")
jobs = stormproof.Jobs(database, worker=False)
stormproof.install(app, database, jobs, prestop=10)

@jobs.task()
async def work(seconds: float) -> None:
    print("begins", flush=True)
    await asyncio.sleep(seconds)
    print("ends", flush=True)
"""


@pytest.mark.storm
async def test_the_worker_command_runs_jobs_and_drains_at_sigterm(
    tmp_path: Path, database: Database, jobs: Jobs
) -> None:
    @jobs.task()
    async def work(seconds: float) -> None: ...

    jobs.is_worker = False
    await jobs.open()
    async with database.session() as session:
        handle = await work.enqueue(session, 0.5)
    command = [sys.executable, "-m", "stormproof", "worker", "app:app", "--concurrency", "50"]
    async with ServerProcess(command, files={"app.py": APP}, folder=tmp_path) as process:
        await process.wait_for_line("begins", 15.0)
        process.signal(SIGTERM)
        assert await process.wait_exit() == 0
        assert "ends" in process.stdout
        assert "drained in" in process.output
    assert await jobs.status(handle.id or 0) == "done"
