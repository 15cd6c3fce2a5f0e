"""What a unit of work costs: `database.session()` against a bare `async with AsyncSession`.

Run it with `python bench/database.py [URL]`; without a URL it starts a PostgreSQL of its own, as
the tests do, and then measures SQLite, too. Each reads one row by its key. Both run in turns in
one process, in blocks, so that a busy machine slows both; the figure is CPU time of this process
(`process_time`), the ratio is taken pair by pair. Both pools have the same size and `pre_ping`.

Both send as many statements: BEGIN, SELECT, and COMMIT or ROLLBACK. On SQLite a bare session sends
no BEGIN, so it is compared with SQLAlchemy's recipe as well, which does (and commits), as we do.
"""

# ruff: noqa: T201

import asyncio
import gc
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from time import process_time_ns

sys.path.insert(0, str(Path(__file__).parents[1]))

from sqlalchemy import Connection, event, select, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from tests.harness.postgres import running_postgres

from stormproof._core.deadline import Deadline, in_force
from stormproof.database import Database
from stormproof.demo.items import Base, Item

PAIRS = 30
CALLS = 150
TARGET = 1.10


async def bare(engine: AsyncEngine, statement: object) -> float:
    """Return the microseconds of CPU of one bare session with one SELECT."""
    began = process_time_ns()
    for _ in range(CALLS):
        async with AsyncSession(engine) as session:
            (await session.execute(statement)).one()  # type: ignore[call-overload]
    return (process_time_ns() - began) / CALLS / 1000


def with_begin(url: URL) -> AsyncEngine:
    """Return an engine whose transactions begin as ours do, by SQLAlchemy's recipe."""
    engine = create_async_engine(
        url, pool_size=5, max_overflow=0, connect_args={"isolation_level": None}
    )

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


async def ours(database: Database, statement: object) -> float:
    """Return the microseconds of CPU of one unit of work with one SELECT, COMMIT included."""
    began = process_time_ns()
    for _ in range(CALLS):
        async with database.session() as session:
            (await session.execute(statement)).one()  # type: ignore[call-overload]
    return (process_time_ns() - began) / CALLS / 1000


def summary(values: list[float], digits: int) -> str:
    """Return "median (first quartile to third quartile)"."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


async def compare(label: str, engine: AsyncEngine, database: Database) -> float:
    """Print the costs of both in turns; return the median ratio."""
    statement = select(Item.id, Item.name).where(Item.id == 1)
    await bare(engine, statement)
    await ours(database, statement)
    gc.collect()
    gc.disable()
    pairs = [(await bare(engine, statement), await ours(database, statement)) for _ in range(PAIRS)]
    gc.enable()
    ratios = [mine / theirs for theirs, mine in pairs]
    print(f"{label}, {PAIRS} pairs of {CALLS} calls, median (quartiles):")
    print(f"  bare AsyncSession   {summary([theirs for theirs, _ in pairs], 0)} us")
    print(f"  database.session()  {summary([mine for _, mine in pairs], 0)} us")
    print(f"  ratio               {summary(ratios, 3)}, all {min(ratios):.2f} to {max(ratios):.2f}")
    return statistics.median(ratios)


async def measure(url: str, *, pre_ping: bool) -> None:
    """Compare on one database, outside a deadline and inside one."""
    database = Database(url, pool_size=5, max_overflow=0, pre_ping=pre_ping, unready_after=None)
    async with database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.execute(text("DELETE FROM items"))
            await connection.execute(
                text("INSERT INTO items (id, name, quantity) VALUES (1, 'bolt', 3)")
            )
        engine = create_async_engine(
            database.engine.url, pool_size=5, max_overflow=0, pool_pre_ping=pre_ping
        )
        begun = with_begin(database.engine.url)
        try:
            name = f"{engine.dialect.name}, pre_ping={pre_ping}"
            ratio = await compare(f"{name}, no deadline", engine, database)
            if engine.dialect.name == "sqlite":
                ratio = await compare(f"{name}, beside one that begins, too", begun, database)
            print(f"  target <= {TARGET}: {'met' if ratio <= TARGET else 'MISSED'}")
            with in_force(Deadline(asyncio.get_running_loop().time() + 600)):
                await compare(f"{name}, inside a deadline", engine, database)
        finally:
            await engine.dispose()
            await begun.dispose()


async def main(url: str) -> None:
    """Measure PostgreSQL with and without the ping, then SQLite."""
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}")
    await measure(url, pre_ping=True)
    await measure(url, pre_ping=False)
    with tempfile.TemporaryDirectory() as folder:
        await measure(f"sqlite:///{folder}/bench.db", pre_ping=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(sys.argv[1]))
    else:
        with running_postgres() as own:
            asyncio.run(main(own))
