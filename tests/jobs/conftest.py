"""Fixtures of the jobs room: an open database on SQLite and by both PostgreSQL drivers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stormproof.database import Database
from stormproof.jobs import Jobs, _jobs

from .memory import MemoryStore, Table
from .work import Open


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "memory":  # the jobs alone; the sessions are of a file all the same
        table = Table()
        monkeypatch.setattr(
            _jobs, "_new_store", lambda _, beat_every, keep: MemoryStore(table, beat_every)
        )
    if request.param in ("sqlite", "memory"):
        return f"sqlite:///{tmp_path}/test.db"
    url = str(request.getfixturevalue("postgres_database"))
    return url.replace("+asyncpg", "+psycopg") if request.param == "psycopg" else url


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    async with Database(url, unready_after=None) as database:
        yield database
        assert database.statistics().in_use == 0


@pytest.fixture
async def jobs(database: Database) -> AsyncIterator[Jobs]:
    """Jobs to be opened by the test once it has declared its tasks, and closed here."""
    jobs = Jobs(database)
    yield jobs
    await jobs.close()


@pytest.fixture
def opened(database: Database) -> Open:
    """A context manager that opens another worker on the same database."""
    return Open(database)
