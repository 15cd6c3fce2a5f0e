"""The constructor checks its arguments, does no I/O and never shows the password."""

import asyncio
import builtins
import importlib.util
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from stormproof._core.lifecycle import Lifecycle, Part
from stormproof.database import Database
from stormproof.errors import DatabaseUnavailable, InvalidSetting, MissingExtra, StartFailed

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("sqlite:///a.db", "sqlite+aiosqlite"),
        ("postgres://u@h/d", "postgresql+asyncpg"),
        ("postgresql://u@h/d", "postgresql+asyncpg"),
        ("postgresql+asyncpg://u@h/d", "postgresql+asyncpg"),
    ],
)
def test_the_usual_schemes_get_their_driver(given: str, taken: str) -> None:
    assert Database(given).engine.url.drivername == taken


def test_sslmode_of_hosting_platforms_is_understood() -> None:
    url = Database("postgres://u@h/d?sslmode=require").engine.url
    assert dict(url.query) == {"ssl": "require"}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"mysql://u:{SECRET}@h/d", "'mysql'; supported are sqlite"),
        (f"postgresql+psycopg2://u:{SECRET}@h/d", "'postgresql.psycopg2'"),
        (f"postgres//u:{SECRET}@h", "is not a database URL"),
        (f"postgres://u:{SECRET}@h:port/d", "is not a database URL"),
        ("sqlite://", "in-memory"),
        ("sqlite:///:memory:", "in-memory"),
        ("sqlite:///file:x?mode=memory&uri=true", "in-memory"),
    ],
)
def test_a_url_we_cannot_serve_is_refused(url: str, words: str) -> None:
    with pytest.raises(InvalidSetting, match=words) as caught:
        Database(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"pool_size": 0},
        {"pool_size": -1},
        {"max_overflow": -1},
        {"max_wait": -0.1},
        {"max_wait": float("inf")},
        {"max_wait": float("nan")},
        {"engine_options": {"pool_timeout": 30}},
        {"engine_options": {"isolation_level": "AUTOCOMMIT"}},
        {"engine_options": {"no_such_option": 1}},
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(arguments))):
        Database("sqlite:///a.db", **arguments)


def test_a_missing_driver_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"pip install 'stormproof\[postgres\]'"):
        Database("postgres://u@h/d")


def test_the_constructor_does_no_io(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("I/O in the constructor")

    monkeypatch.setattr(builtins, "open", forbidden)
    monkeypatch.setattr(socket, "socket", forbidden)
    Database(f"sqlite:///{tmp_path}/no.db")
    assert list(tmp_path.iterdir()) == []


def test_the_password_is_not_shown() -> None:
    database = Database(f"postgres://u:{SECRET}@h/d")
    assert SECRET not in repr(database)
    assert "u:***@h/d" in repr(database)


def test_it_is_a_part_of_the_lifecycle() -> None:
    part: Part = Database("sqlite:///a.db", name="orders")
    assert part.name == "orders"


async def test_a_dead_server_is_one_sentence_at_the_start() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: every connect is refused
        port = taken.getsockname()[1]
        database = Database(f"postgres://u:{SECRET}@127.0.0.1:{port}/d")
        with pytest.raises(DatabaseUnavailable, match=f"127.0.0.1:{port}/d cannot be") as caught:
            await database.open(Lifecycle())
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_server_that_does_not_answer_does_not_hang_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules["stormproof.database._engine"], "CONNECT_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(DatabaseUnavailable):
            await Database(f"postgres://u@127.0.0.1:{port}/d").open(Lifecycle())


async def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/missing/a.db")
    with pytest.raises(DatabaseUnavailable, match="unable to open database file"):
        await database.open(Lifecycle())
    assert database.statistics().in_use == 0


async def test_a_wrong_driver_argument_fails_the_start(postgres_database: str) -> None:
    database = Database(f"{postgres_database}?no_such_argument=1")
    with pytest.raises(StartFailed, match="no_such_argument"):
        await database.open(Lifecycle())


async def test_a_cancelled_start_leaves_nothing_open(url: str) -> None:
    for ticks in range(12):
        database = Database(url)
        task = asyncio.create_task(database.open(Lifecycle()))
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert database.statistics().in_use == 0


async def test_it_can_be_opened_again(url: str) -> None:
    database = Database(url)
    for _ in range(2):
        async with database, database.session() as session:
            await session.execute(text("SELECT 1"))


async def test_closing_twice_is_harmless(url: str) -> None:
    database = Database(url)
    await database.open(Lifecycle())
    await database.close()
    await database.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reserve": 30}, "reserve is 30 of 30 connections"),
        ({"reserve": -1}, "reserve is -1"),
        ({"wait_for_start": -1.0}, "wait_for_start=-1.0"),
        ({"idle_in_transaction": 0.0}, "idle_in_transaction=0.0"),
    ],
)
def test_settings_that_could_not_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        Database("sqlite:///a.db", **settings)
