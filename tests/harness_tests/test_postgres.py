"""The real PostgreSQL: it runs, databases are apart, and a missing one is said plainly."""

from pathlib import Path

import asyncpg
import pytest

from tests.harness import fresh_database, running_postgres
from tests.harness.postgres import SpareDatabases


async def connect(url: str) -> asyncpg.Connection:
    return await asyncpg.connect(url.replace("+asyncpg", "", 1))


async def test_a_real_server_answers(postgres_database: str) -> None:
    assert postgres_database.startswith("postgresql+asyncpg://")
    connection = await connect(postgres_database)
    try:
        assert (await connection.fetchval("SELECT version()")).startswith("PostgreSQL 1")
    finally:
        await connection.close()


async def test_each_database_is_empty_and_dropped_under_open_connections(postgres_url: str) -> None:
    async with fresh_database(postgres_url) as first, fresh_database(postgres_url) as second:
        left_open = await connect(first)
        await left_open.execute("CREATE TABLE t (id int)")
        other = await connect(second)
        assert await other.fetchval("SELECT to_regclass('t')") is None
        await other.close()
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await connect(first)
    left_open.terminate()


async def test_a_database_is_empty_again_before_it_is_lent_again(postgres_url: str) -> None:
    databases = SpareDatabases(postgres_url)
    async with databases.lent() as first:
        left_open = await connect(first)
        await left_open.execute("CREATE TABLE t (id int)")
        await left_open.execute(f"ALTER DATABASE {first.rpartition('/')[2]} SET lock_timeout = 1")
    async with databases.lent() as second:
        assert second == first
        connection = await connect(second)
        assert await connection.fetchval("SELECT to_regclass('t')") is None
        assert await connection.fetchval("SHOW lock_timeout") == "0"
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        assert await connection.fetchval(others) == 1
        await connection.close()
    left_open.terminate()
    await databases.drop()
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await connect(first)


def test_without_postgres_a_test_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    skipped = pytest.raises(pytest.skip.Exception, match="STORMPROOF_TEST_POSTGRES_URL")
    with skipped, running_postgres([]):
        pass


def test_without_postgres_a_test_fails_on_ci(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CI", "true")
    failed = pytest.raises(pytest.fail.Exception, match=str(tmp_path))
    with failed, running_postgres([tmp_path]):
        pass


def test_a_server_that_runs_already_is_used_as_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORMPROOF_TEST_POSTGRES_URL", "postgres://u:p@db:5433/ci")
    with running_postgres() as url:
        assert url == "postgresql+asyncpg://u:p@db:5433/ci"
