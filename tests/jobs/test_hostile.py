"""What a hostile caller, function or table does to the room: the others go on."""

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr
from sqlalchemy import text

from stormproof.database import Database
from stormproof.errors import InvalidArguments, InvalidSetting
from stormproof.jobs import Job, Jobs, _beat_sqlite, _sqlite
from tests.harness import until

from .work import Open, stands


async def others_go_on(jobs: Jobs, database: Database) -> None:
    async with database.session() as session:
        handle = await jobs.tasks["harmless"].enqueue(session)
    await stands(jobs, handle.id, "done")


def harmless(jobs: Jobs) -> None:
    @jobs.task(name="harmless")
    async def harmless() -> None: ...


@pytest.fixture
def no_log() -> Iterator[None]:
    """Log nothing: a test's report has its log, and is sent between processes as UTF-8."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("words", ["a\x00b", "\ud800", "x" * 300_000], ids=["nul", "half", "long"])
async def test_words_that_no_database_can_hold(
    jobs: Jobs, database: Database, words: str, no_log: None
) -> None:
    harmless(jobs)

    @jobs.task(retries=1, backoff=0.01)
    async def fails() -> None:
        raise ValueError(words)

    await jobs.open()
    async with database.session() as session:
        handle = await fails.enqueue(session)
    await stands(jobs, handle.id, "held")
    (held,) = await jobs.held()
    assert "ValueError" in held.last_words
    assert len(held.last_words) < 200_000
    await others_go_on(jobs, database)


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, GeneratorExit], ids=str)
async def test_a_function_that_raises_what_is_no_exception_has_failed(
    jobs: Jobs, database: Database, error: type[BaseException]
) -> None:
    harmless(jobs)
    starts = []

    @jobs.task(retries=1, backoff=0.01)
    async def raises(job: Job) -> None:
        starts.append(job.start)
        if len(starts) > 20:
            return
        raise error

    await jobs.open()
    async with database.session() as session:
        handle = await raises.enqueue(session)
    await stands(jobs, handle.id, "held")
    assert starts == [1, 2]
    await others_go_on(jobs, database)


@pytest.mark.parametrize("delay", [float("inf"), 1e300, 1e15, float("nan")])
async def test_a_delay_without_end_is_refused(jobs: Jobs, database: Database, delay: float) -> None:
    harmless(jobs)
    await jobs.open()
    async with database.session() as session:
        with pytest.raises(InvalidSetting):
            await jobs.tasks["harmless"].enqueue(session, delay=delay)
    await others_go_on(jobs, database)


class Mail(BaseModel):
    to: str = Field(alias="recipient")
    tags: set[int] = set()


async def test_arguments_come_back_as_they_went(jobs: Jobs, database: Database) -> None:
    got: list[Any] = []

    @jobs.task()
    async def send(mail: Mail, raw: bytes = b"") -> None:
        got.append(mail)

    await jobs.open()
    mail = Mail(recipient="a", tags={1})
    async with database.session() as session:
        handle = await send.enqueue(session, mail)
    await stands(jobs, handle.id, "done", "held")
    assert got == [mail]


async def test_arguments_that_would_not_come_back_are_refused(
    jobs: Jobs, database: Database
) -> None:
    @jobs.task()
    async def login(secret: Any) -> None: ...

    @jobs.task()
    async def raw(data: bytes) -> None: ...

    await jobs.open()
    async with database.session() as session:
        for value in (SecretStr("x"), object(), "\ud800"):
            with pytest.raises(InvalidArguments):
                await login.enqueue(session, value)
        with pytest.raises(InvalidArguments):
            await raw.enqueue(session, b"\xff\xfe")


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_rows_that_nobody_of_ours_has_written(jobs: Jobs, database: Database) -> None:
    """An unknown task, no payload, no JSON: the first waits, the others are held."""
    harmless(jobs)
    await jobs.open()
    row = (
        "INSERT INTO stormproof_jobs (task, payload, priority, headers, status, is_due, attempts,"
        " created, updated, heartbeat, start_after) VALUES "
        "(:task, :payload, 9, :headers, 'queued', 1, 0, 0, 0, 0, 0)"
    )
    rows = [
        ("unknown", b"{}", "{}"),
        ("harmless", None, "{}"),
        ("harmless", b"\xff", "{}"),
        ("harmless", b"{}", "no json"),
    ]
    async with database.session() as session:
        for task, payload, headers in rows:
            await session.execute(text(row), {"task": task, "payload": payload, "headers": headers})
    jobs.wake()
    await others_go_on(jobs, database)
    await until(lambda: jobs.statistics().held == 3)
    assert await jobs.status(1) == "queued"


async def test_arguments_that_are_data_rather_than_where_it_is_are_refused(
    jobs: Jobs, database: Database
) -> None:
    @jobs.task()
    async def huge(data: str) -> None: ...

    await jobs.open()
    async with database.session() as session:
        with pytest.raises(InvalidArguments, match=r"1,000,0\d\d bytes of JSON"):
            await huge.enqueue(session, "x" * 1_000_000)
        await huge.enqueue(session, "**********" * 90_000)


class Set:
    """A clock that somebody sets."""

    def __init__(self) -> None:
        self.by = 0.0
        self.monotonic = time.monotonic
        self._time = time.time

    def time(self) -> float:
        return self._time() + self.by


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_a_clock_that_is_set_takes_no_job_from_the_living(
    opened: Open, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, may_end, starts = Set(), asyncio.Event(), list[int]()
    monkeypatch.setattr(_sqlite, "time", clock)
    monkeypatch.setattr(_beat_sqlite, "time", clock)
    living, other = opened.new(stale_after=1.0), opened.new(worker=False, stale_after=1.0)

    @living.task()
    async def wait(job: Job) -> None:
        starts.append(job.start)
        await may_end.wait()

    async def is_beaten() -> bool:
        async with database.read_session() as session:
            beaten = await session.scalar(text("SELECT heartbeat FROM stormproof_jobs"))
            return abs(float(beaten or 0) - clock.time()) < 1.0

    async with opened(living), opened(other):
        async with database.session() as session:
            handle = await wait.enqueue(session)
        await until(lambda: starts == [1])
        for hours in (1, -2, 1):
            clock.by += hours * 3600
            assert await other._opened().claim(10, {"wait": 0}, 10, 1.0) == []
            await until(is_beaten)
            assert await other._opened().claim(10, {"wait": 0}, 10, 1.0) == []
        may_end.set()
        await stands(living, handle.id, "done")
    assert starts == [1]
    assert living.statistics().lost_leases == 0
