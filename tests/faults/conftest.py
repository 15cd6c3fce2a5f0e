"""Fixtures of the faults: a database each, once on SQLite and once on PostgreSQL."""

from pathlib import Path

import pytest


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of a SQLite file that does not exist yet."""
    return f"sqlite+aiosqlite:///{tmp_path}/test.db"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty database, once on each kind."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_database"
    return str(request.getfixturevalue(name))
