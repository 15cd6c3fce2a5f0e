"""Jobs in a FastAPI app: their dependencies, tasks that are handed over, the worker command."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Header
from opentelemetry import trace
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

import stormproof
from stormproof._core.events import Event, JobFailed
from stormproof._core.lifecycle import Lifecycle, Phase
from stormproof.database import Database
from stormproof.jobs import Job, Jobs
from stormproof.serve._admin import AdminServer
from stormproof.serve._snapshot import Observer
from tests.harness import request, until

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

    @jobs.task(retries=5)  # which would not help
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


async def test_a_job_belongs_to_the_trace_of_who_enqueued_it(
    database: Database, jobs: Jobs
) -> None:
    seen: list[trace.SpanContext] = []

    @jobs.task()
    async def note() -> None:
        seen.append(trace.get_current_span().get_span_context())

    await jobs.open()
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    request = trace.SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=flags)
    with trace.use_span(trace.NonRecordingSpan(request)):
        async with database.session() as session:
            handle = await note.enqueue(session)
    await stands(jobs, handle.id, "done")
    assert [context.trace_id for context in seen] == [0xABC]


async def test_the_admin_listener_shows_jobs_and_changes_nothing(
    database: Database, jobs: Jobs
) -> None:
    lifecycle = Lifecycle()
    observer = Observer(lifecycle, parts=[jobs])

    @jobs.task(retries=0)
    async def fails() -> None:
        raise LookupError("no such page")

    @jobs.task()
    async def later() -> None: ...

    told: list[Event] = []
    lifecycle.events.subscribe(told.append)
    await jobs.open(lifecycle)
    lifecycle.enter(Phase.READY)
    async with database.session() as session:
        failed = await fails.enqueue(session)
        await later.enqueue(session, delay=60)
    await stands(jobs, failed.id, "held")
    await until(lambda: jobs.statistics().held == 1)
    with AdminServer(lambda *, with_open: (), jobs=observer.jobs) as server:
        port = server.address[1]
        (shown,) = json.loads((await request(port, "GET", "/jobs")).body)
        assert (await request(port, "POST", "/jobs")).status == 405
    assert (shown["tasks"]["fails"]["held"], shown["tasks"]["later"]["delayed"]) == (1, 1)
    assert shown["here"]["held"] == 1
    assert "no such page" in shown["held"][0]["last_words"]
    assert shown["unknown"] == []
    error = "LookupError('no such page')"
    assert JobFailed("fails", failed.id or 0, error, starts=1, is_held=True) in told
    observer.close()
    with AdminServer(lambda *, with_open: ()) as server:
        assert (await request(server.address[1], "GET", "/jobs")).status == 404


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
