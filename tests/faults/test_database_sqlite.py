"""On SQLite no acknowledged update is lost, and a reader holds up no writer."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from .database_service import OURS, POST, Service, loaded, served

CALLERS = 20


async def check_no_update_is_lost(service: Service) -> None:
    """Each caller reads a number and writes it back one higher."""
    assert (await service.create("bolt", 0)).status == 201
    answers = await asyncio.gather(*(service.post("/items/1/add") for _ in range(CALLERS)))
    statuses = [answer.status for answer in answers]
    assert await service.settled("in_use", 0) == 0
    stored = json.loads((await service.get("/items/1")).body)["quantity"]
    acknowledged = statuses.count(200)
    assert stored == acknowledged, f"{acknowledged} acknowledged, {stored} stored"
    assert set(statuses) <= {200, 503}
    assert acknowledged > 0


async def test_seed_loses_updates(sqlite_url: str) -> None:
    """The driver begins no transaction for a SELECT, so another writer comes in between."""
    async with loaded(POST, sqlite_url) as service:
        with pytest.raises(AssertionError, match=r"\d+ acknowledged, \d+ stored"):
            await check_no_update_is_lost(service)


async def test_read_then_write_loses_no_update(sqlite_url: str) -> None:
    """A unit of work takes SQLite's write lock before it reads."""
    async with loaded(OURS, sqlite_url) as service:
        await check_no_update_is_lost(service)


async def check_reader_holds_up_no_writer(service: Service, path: Path) -> None:
    """Another process, such as a backup, is in the middle of reading."""
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM items").fetchone() == (0,)
        assert (await service.create("bolt")).status == 201
        answer = await service.get("/items", timeout=2.0)
        assert b"bolt" in answer.body, "acknowledged, but not stored beside a reader"
        assert reader.execute("SELECT count(*) FROM items").fetchone() == (0,)


async def test_reader_holds_up_the_seeds_commit(sqlite_url: str, tmp_path: Path) -> None:
    """WAL is not SQLite's default: without it a COMMIT waits for every reader."""
    async with served(POST, sqlite_url) as service:
        with pytest.raises(AssertionError, match="not stored beside a reader"):
            await check_reader_holds_up_no_writer(service, tmp_path / "test.db")


async def test_reader_holds_up_no_commit(sqlite_url: str, tmp_path: Path) -> None:
    """Our connections switch WAL on."""
    async with loaded(OURS, sqlite_url) as service:
        await check_reader_holds_up_no_writer(service, tmp_path / "test.db")
