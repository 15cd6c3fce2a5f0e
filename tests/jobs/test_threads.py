"""Enqueueing from threads: the job is in the session's own transaction there, too."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, TypeVar

import pytest
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import stormproof
from stormproof import errors
from stormproof.database import Database, SyncSession
from stormproof.jobs import Jobs, JobTask, _beat_sqlite
from tests.harness import until

from .work import Open, stands

on_all = pytest.mark.parametrize("url", ["sqlite", "postgres", "psycopg"], indirect=True)
on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """Run it in a thread that no limiter counts."""
    return await to_thread.run_sync(work, limiter=CapacityLimiter(1))


def noting(jobs: Jobs) -> tuple[JobTask[[str]], list[str]]:
    """Declare a task that notes its word."""
    done: list[str] = []

    @jobs.task()
    async def note(word: str) -> None:
        done.append(word)

    return note, done


async def stored(database: Database) -> int:
    """Return how many jobs there are."""
    table = "stormproof_jobs" if database.engine.dialect.name == "sqlite" else "pgqueuer"
    async with database.read_session() as session:
        return int(await session.scalar(text(f"SELECT count(*) FROM {table}")) or 0)


@on_all
async def test_committed_in_a_thread_means_enqueued_and_rolled_back_means_not(
    jobs: Jobs, database: Database
) -> None:
    note, done = noting(jobs)
    words = [f"{number:02}" for number in range(45)]
    await jobs.open()

    def undone(session: SyncSession) -> None:
        note.enqueue_sync(session, "rolled back by hand")
        session.rollback()
        note.enqueue_many_sync(session, [{"word": "rolled back"}] * 3)
        raise LookupError

    def work(session: SyncSession) -> list[int | None]:
        with suppress(LookupError), session.begin_nested():
            note.enqueue_sync(session, "in a savepoint that was undone")
            raise LookupError
        with session.begin_nested():
            handles = [note.enqueue_sync(session, word="a", priority=2)]
        handles += note.enqueue_many_sync(session, [{"word": word} for word in words])
        time.sleep(0.05)
        assert done == []  # not before the COMMIT
        return [handle.id for handle in handles]

    with suppress(LookupError):
        async with database.sync_session() as session:
            await in_thread(lambda: undone(session))
    async with database.sync_session() as session:
        ids = await in_thread(lambda: work(session))
    for job_id in ids:
        await stands(jobs, job_id, "done")
    assert sorted(done) == [*words, "a"]
    assert await stored(database) == 0


@on_all
async def test_a_key_is_unique_in_threads_too(opened: Open, database: Database) -> None:
    jobs = opened.new(worker=False)
    note, _ = noting(jobs)
    async with opened(jobs):
        async with database.session() as first:
            known = await note.enqueue(first, "a", key="order:1")
        async with database.sync_session() as session:
            again, other = await in_thread(
                lambda: [note.enqueue_sync(session, "b", key=f"order:{n}") for n in (1, 2)]
            )
    assert (again.id, again.is_new) == (known.id, False)
    assert other.is_new


@on_sqlite
@pytest.mark.parametrize("kind", ["ours", "SQLAlchemy's", "async"])
async def test_the_commit_alone_wakes_the_worker(
    opened: Open, database: Database, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nobody polls and nobody looks at the file here; the end of a savepoint wakes too early."""
    monkeypatch.setattr(_beat_sqlite, "_LOOK_EVERY", 3600.0)
    jobs = opened.new(poll=3600.0)
    note, done = noting(jobs)
    plain = create_engine(f"sqlite:///{database.engine.url.database}")

    def work(session: Session) -> None:
        with session.begin_nested():
            note.enqueue_sync(session, "a")
        note.enqueue_sync(session, "b")

    async with opened(jobs):
        await until(lambda: jobs._worker is not None and jobs._worker._port.driver._callbacks)
        if kind == "ours":
            async with database.sync_session() as session:
                await in_thread(lambda: work(session))
        elif kind == "async":
            async with AsyncSession(database.engine) as theirs, theirs.begin():
                async with theirs.begin_nested():
                    await note.enqueue(theirs, "a")
                await note.enqueue(theirs, "b")
        else:
            with Session(plain) as own, own.begin():
                await in_thread(lambda: work(own))
        await until(lambda: sorted(done) == ["a", "b"], 10.0)
    plain.dispose()


async def test_a_request_that_is_cancelled_has_no_job(opened: Open, database: Database) -> None:
    jobs = opened.new(worker=False)
    note, _ = noting(jobs)
    slow = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        if database.engine.dialect.name == "sqlite"
        else "SELECT pg_sleep(60)"
    )
    loop, enqueued = asyncio.get_running_loop(), asyncio.Event()

    def work(session: SyncSession) -> None:
        note.enqueue_sync(session, "a")
        loop.call_soon_threadsafe(enqueued.set)
        session.execute(text(slow))

    async def request() -> None:
        async with database.sync_session() as session:
            await in_thread(lambda: work(session))

    async with opened(jobs):
        under_way = asyncio.create_task(request())
        await enqueued.wait()
        under_way.cancel()
        await asyncio.wait([under_way])
        await until(lambda: database.statistics().in_use == 0)
        assert await stored(database) == 0


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
async def test_an_enqueue_that_waits_for_another_transaction_is_cut(
    opened: Open, database: Database
) -> None:
    """It waits for the other one with its key; its own statement must be what is cut."""
    jobs = opened.new(worker=False)
    note, _ = noting(jobs)
    failures: list[Exception] = []

    def work(session: SyncSession) -> None:
        try:
            note.enqueue_sync(session, "b", key="order:1")
        except Exception as error:
            failures.append(error)
            raise

    async def request() -> None:
        async with database.sync_session() as session:
            await in_thread(lambda: work(session))

    async def waits() -> bool:
        async with database.read_session() as session:
            question = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            return bool(await session.scalar(question))

    async with opened(jobs), database.session() as other:
        await note.enqueue(other, "a", key="order:1")
        under_way = asyncio.create_task(request())
        await until(waits)
        under_way.cancel()
        await asyncio.wait([under_way], timeout=10)
        await until(lambda: database.statistics().in_use == 1)
    assert [type(failure) for failure in failures] == [errors.SessionClosed]


async def test_the_wrong_kind_of_session_is_refused_at_the_call(
    opened: Open, database: Database
) -> None:
    """Without an await nobody would say so, and the endpoint would commit without its job."""
    jobs = opened.new(worker=False)
    note, _ = noting(jobs)
    async with opened(jobs):
        async with database.sync_session() as session:
            with pytest.raises(errors.InvalidArguments, match="use enqueue_sync"):
                note.enqueue(session, "a")  # type: ignore[arg-type, unused-coroutine]
            with pytest.raises(errors.InvalidArguments, match="enqueue_many_sync"):
                note.enqueue_many(session, [])  # type: ignore[arg-type, unused-coroutine]
        async with database.session() as theirs:
            with pytest.raises(errors.InvalidArguments, match="use `await enqueue"):
                note.enqueue_sync(theirs, "a")  # type: ignore[arg-type]


def test_a_def_endpoint_enqueues_with_its_data(url: str) -> None:
    app, database = FastAPI(), Database(url)
    jobs = Jobs(database)
    note, done = noting(jobs)
    stormproof.install(app, database, jobs)
    Session = Annotated[SyncSession, stormproof.sync_session(database)]

    @app.post("/orders")
    def order(word: str, session: Session) -> int | None:
        handle = note.enqueue_sync(session, word, key=word)
        if word == "teapot":
            raise HTTPException(418)
        return handle.id

    @app.post("/late", dependencies=[stormproof.route_deadline(0.2)])
    def late(session: Session) -> None:
        note.enqueue_sync(session, "late")
        time.sleep(0.4)

    @app.get("/jobs/{job_id}")
    async def status(job_id: int) -> str | None:
        return await jobs.status(job_id)

    with TestClient(app) as client:
        assert client.post("/orders?word=teapot").status_code == 418
        assert client.post("/late").status_code == 504
        made = client.post("/orders?word=tea")
        assert made.status_code == 200
        give_up_at = time.monotonic() + 10
        while client.get(f"/jobs/{made.json()}").json() != "done":
            assert time.monotonic() < give_up_at
    assert done == ["tea"]
