"""What the agent tells of SQLAlchemy's pools, and what it does to them on command."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from signal import Signals

import pytest

from tests.harness import fresh_database, until

from .stage import Stage, proven

pytestmark = pytest.mark.storm

ASYNC = """
import asyncio
import os
from contextlib import asynccontextmanager
from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

engine = create_async_engine(
    os.environ["URL"], pool_size=2, max_overflow=1, pool_timeout=0.3, connect_args={}
)

@asynccontextmanager
async def lifespan(app):
    async with engine.begin() as connection:
        await connection.execute(text("create table if not exists rows_ (id int)"))
    yield
    await engine.dispose()

app = FastAPI(lifespan=lifespan)

async def session():
    async with AsyncSession(engine) as session:
        yield session

@app.get("/read/{seconds}")
async def read(seconds: float, session=Depends(session)):
    await session.execute(text("select 1"))
    await asyncio.sleep(seconds)
    await session.execute(text("select 1"))
    return 1

@app.post("/write")
async def write(session=Depends(session)):
    await session.execute(text("insert into rows_ values (1)"))
    await session.commit()
    return {}

@app.post("/stubborn")
async def stubborn():
    async with engine.connect() as connection:
        await connection.execute(text("insert into rows_ values (1)"))
        try:
            await connection.commit()
        except Exception:
            await connection.rollback()
        await connection.execute(text("select 1"))
        await connection.commit()
    return {}

@app.get("/rows")
async def rows(session=Depends(session)):
    return (await session.execute(text("select count(*) from rows_"))).scalar()
"""

SYNC = """
import os
import time
from fastapi import Depends, FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

engine = create_engine(os.environ["URL"], pool_size=2, max_overflow=1, pool_timeout=0.3)
with engine.begin() as connection:
    connection.execute(text("create table if not exists rows_ (id int)"))

app = FastAPI()

def session():
    with Session(engine) as session:
        yield session

@app.get("/read/{seconds}")
def read(seconds: float, session=Depends(session)):
    session.execute(text("select 1"))
    time.sleep(seconds)
    session.execute(text("select 1"))
    return 1

@app.post("/write")
def write(session=Depends(session)):
    session.execute(text("insert into rows_ values (1)"))
    session.commit()
    return {}

@app.post("/stubborn")
def stubborn():
    with engine.connect() as connection:
        connection.execute(text("insert into rows_ values (1)"))
        try:
            connection.commit()
        except Exception:
            connection.rollback()
        connection.execute(text("select 1"))
        connection.commit()
    return {}

@app.get("/rows")
def rows(session=Depends(session)):
    return session.execute(text("select count(*) from rows_")).scalar()
"""

OURS = """
import asyncio
import os
from fastapi import Depends, FastAPI
from sqlalchemy import text
import stormproof

database = stormproof.Database(os.environ["URL"], pool_size=2, max_overflow=1, max_wait=0.3)
app = FastAPI()
stormproof.install(app, database, grace=3, prestop=0.1)

@app.get("/read/{seconds}")
async def read(seconds: float):
    async with database.read_session() as session:
        await session.execute(text("select 1"))
        await asyncio.sleep(seconds)
        await session.execute(text("select 1"))
    return 1

async def made():
    async with database.session() as session:
        await session.execute(text("create table if not exists rows_ (id int)"))

@app.post("/write")
async def write():
    await made()
    async with database.session() as session:
        await session.execute(text("insert into rows_ values (1)"))
    return {}

@app.get("/rows")
async def rows():
    async with database.read_session() as session:
        return (await session.execute(text("select count(*) from rows_"))).scalar()
"""

WAYS = ["async-sqlite", "sync-sqlite", "async-postgres", "sync-postgres", "ours-sqlite"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def running(way: str, folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    kind, _, backend = way.partition("-")
    async with AsyncExitStack() as stack:
        if backend == "sqlite":
            scheme = {"async": "sqlite+aiosqlite", "sync": "sqlite", "ours": "sqlite"}[kind]
            url = f"{scheme}:///{folder}/data.db"
        else:
            server = request.getfixturevalue("postgres_url")
            url = await stack.enter_async_context(fresh_database(server))
            url = url if kind == "async" else url.replace("asyncpg", "psycopg")
        source = {"async": ASYNC, "sync": SYNC, "ours": OURS}[kind]
        yield await stack.enter_async_context(proven(source, folder, env={"URL": url}))


async def _checkouts(stage: Stage) -> list[dict[str, object]]:
    return list((await stage.link.census())["checkouts"])


async def _has_none_out(stage: Stage) -> bool:
    return not await _checkouts(stage)


async def _is_whole(stage: Stage) -> bool:
    return all(pool["checked_out"] == 0 for pool in (await stage.link.census())["pools"])


async def _is_full(stage: Stage) -> bool:
    return await stage.link.exhaust_pools() == 3


async def _is_served(stage: Stage) -> bool:
    return (await stage.ask("GET", "/read/0")).status == 200


async def test_holds_are_told_with_route_stack_and_idle_time_and_are_in_the_census(
    way: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with running(way, tmp_path, request) as stage:
        slow = asyncio.create_task(stage.ask("GET", "/read/1.0", 7))
        (out,) = await until(lambda: _checkouts(stage), what="a checkout")
        (pool,) = [pool for pool in (await stage.link.census())["pools"] if pool["checked_out"]]
        await slow
        await until(lambda: _has_none_out(stage), what="no checkout")
        (hold,) = await stage.hears("hold", id=7)
        assert (await stage.ask("POST", "/write", 8)).status == 200
        await stage.hears("hold", route="POST /write", wrote=True)
    facts = hold.facts
    assert out["route"] == facts["route"] == "GET /read/{seconds}"
    assert (pool["size"], pool["overflow_max"], pool["checked_out"]) == (2, 1, 1)
    assert 1.0 <= facts["longest_idle"] <= facts["idle"] <= facts["held"] < 3.0
    assert (facts["statements"], facts["wrote"]) == (2, False)
    assert facts["how"] == "checkin"
    assert f"{tmp_path}/app.py" in facts["stack"][-1]
    assert facts["stack"][-1].endswith(" in read")
    assert facts["pool"].startswith(("sqlite", "postgresql"))


async def test_a_statement_that_takes_long_is_not_idle(
    tmp_path: Path, postgres_database: str
) -> None:
    source = SYNC.replace("select 1", "select pg_sleep(0.2)")
    url = postgres_database.replace("asyncpg", "psycopg")
    async with proven(source, tmp_path, env={"URL": url}) as stage:
        await stage.ask("GET", "/read/0.0", 1)
        (hold,) = await stage.hears("hold", id=1)
    assert hold.facts["held"] >= 0.4
    assert hold.facts["idle"] < 0.15


async def test_rows_that_sqlite_computes_while_they_are_fetched_are_not_idle(
    tmp_path: Path,
) -> None:
    slow = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000000) "
    source = SYNC.replace(
        'text("select 1")', f'text("{slow} select * from n where i % 500000 = 0")'
    )
    source = source.replace("))\n    time.sleep", ")).all()\n    time.sleep")
    url = f"sqlite:///{tmp_path}/data.db"
    async with proven(source, tmp_path, env={"URL": url}) as stage:
        await stage.ask("GET", "/read/0.0", 1, timeout=30)
        (hold,) = await stage.hears("hold", id=1)
    assert hold.facts["held"] > 0.2
    assert hold.facts["idle"] < 0.3 * hold.facts["held"]


async def test_exhausted_pools_refuse_all_take_what_comes_back_and_serve_again(
    way: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with running(way, tmp_path, request) as stage:
        slow = asyncio.create_task(stage.ask("GET", "/read/2.5", 1))
        await until(lambda: _checkouts(stage), what="a checkout")
        assert await stage.link.exhaust_pools() == 2
        assert (await slow).status == 200
        await until(lambda: _is_full(stage), what="3 held")
        assert (await stage.ask("GET", "/read/0", 2)).status >= 500
        (late,) = await stage.hears("pool-timeout", id=2)
        assert late.facts["route"] == "GET /read/{seconds}"
        assert 0.25 <= late.facts["waited"] < 2.0
        assert (await stage.link.census())["checkouts"] == []
        await stage.link.release_pools()
        assert (await stage.ask("GET", "/read/0", 3)).status == 200
        await until(lambda: _is_whole(stage), what="nothing checked out")
        assert not [hold for hold in stage.told("hold") if hold.facts["id"] == 2]


@pytest.mark.parametrize("way", ["async-postgres", "sync-sqlite", "ours-sqlite"], indirect=True)
async def test_a_broken_link_gives_everything_back(
    way: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with running(way, tmp_path, request) as stage:
        assert await stage.link.exhaust_pools() == 3
        await stage.link.fail_commits(on=True)
        await stage.link._close()
        await until(lambda: _is_served(stage), what="an answer")
        assert (await stage.ask("POST", "/write", 5)).status == 200


async def test_a_commit_made_to_fail_is_an_error_and_stores_nothing(
    way: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with running(way, tmp_path, request) as stage:
        assert (await stage.ask("POST", "/write", 1)).status == 200
        await stage.link.fail_commits(on=True)
        assert (await stage.ask("POST", "/write", 2)).status >= 500
        (failed,) = await stage.hears("commit-failed")
        assert failed.facts["route"] == "POST /write"
        assert failed.facts["id"] == 2
        assert (await stage.ask("GET", "/read/0")).status == 200
        await stage.link.fail_commits(on=False)
        assert (await stage.ask("GET", "/rows")).body == b"1"
        assert (await stage.ask("POST", "/write", 3)).status == 200
        assert (await stage.ask("GET", "/rows")).body == b"2"


@pytest.mark.parametrize("way", ["async-sqlite", "sync-postgres"], indirect=True)
async def test_a_connection_used_on_after_the_failed_commit_stores_nothing_either(
    way: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with running(way, tmp_path, request) as stage:
        await stage.link.fail_commits(on=True)
        assert (await stage.ask("POST", "/stubborn", 2)).status == 200
        await stage.hears("commit-failed", id=2)
        await stage.link.fail_commits(on=False)
        assert (await stage.ask("GET", "/rows")).body == b"0"


@pytest.mark.parametrize("way", ["async-postgres", "sync-sqlite", "ours-sqlite"], indirect=True)
async def test_the_app_ends_as_ever_while_its_pool_is_exhausted(
    way: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with running(way, tmp_path, request) as stage:
        await stage.link.exhaust_pools()
        stage.process.signal(Signals.SIGTERM)
        await stage.process.wait_exit(15)
