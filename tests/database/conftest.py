"""Fixtures of the database room: an open database, on SQLite and by both PostgreSQL drivers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stormproof._core.lifecycle import Lifecycle
from stormproof.database import Database

from .model import Model


@pytest.fixture(params=["sqlite", "postgres", "psycopg"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    url = str(request.getfixturevalue("postgres_database"))
    return url.replace("+asyncpg", "+psycopg") if request.param == "psycopg" else url


@pytest.fixture(params=["asyncpg", "psycopg"])
def driver_url(request: pytest.FixtureRequest, postgres_database: str) -> str:
    """URL of an empty PostgreSQL database, once for each driver."""
    return postgres_database.replace("+asyncpg", f"+{request.param}")


@pytest.fixture
def lifecycle() -> Lifecycle:
    return Lifecycle()


@pytest.fixture
async def database(url: str, lifecycle: Lifecycle) -> AsyncIterator[Database]:
    """A pool of exactly two, whose callers wait 0.2 s; nothing may be in use at the end.

    It is not watched: a look takes one of the two for a moment, once a second.
    """
    database = Database(url, pool_size=1, max_overflow=1, max_wait=0.2, unready_after=None)
    await database.open(lifecycle)
    try:
        async with database.engine.begin() as connection:
            await connection.run_sync(Model.metadata.create_all)
        yield database
        assert database.statistics().in_use == 0
        assert database.statistics().waiting == 0
    finally:
        await database.close()
