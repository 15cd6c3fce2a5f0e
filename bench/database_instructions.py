"""What a unit of work costs in instructions, which a busy machine does not change.

Run it with `python bench/database_instructions.py`; it needs valgrind and takes about a minute for
each driver. `bench/database.py` measures the same in time. Counted are the instructions of this
process alone (callgrind) for a unit of work with one SELECT by key:

- bare: `async with AsyncSession`, which rolls back at its end;
- commit: the same with `await session.commit()`;
- begun (SQLite): the same on an engine that sends BEGIN IMMEDIATE, by SQLAlchemy's recipe;
- session and read_session: ours, COMMIT included;
- deadline: session inside a deadline, of which PostgreSQL is told.
"""

# ruff: noqa: T201, D103

import asyncio
import gc
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.database import with_begin
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from tests.harness.postgres import running_postgres

from stormproof._core.deadline import Deadline, in_force
from stormproof.database import Database
from stormproof.demo.items import Base, Item

CALLS = 200
Unit = Callable[[], AbstractAsyncContextManager[Any]]


async def units(new_unit: Unit, calls: int, *, commits: bool = False) -> None:
    statement = select(Item.id, Item.name).where(Item.id == 1)
    for _ in range(calls):
        async with new_unit() as session:
            (await session.execute(statement)).one()
            if commits:
                await session.commit()


def control(*arguments: str) -> None:
    command = ["callgrind_control", *arguments, str(os.getpid())]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


async def counted(url: str) -> None:
    """Run each design under callgrind, and leave one dump for each."""
    database = Database(url, pool_size=5, max_overflow=0, pre_ping=False, unready_after=None)
    engines: list[AsyncEngine] = []
    async with database:
        plain = create_async_engine(database.engine.url, pool_size=5, max_overflow=0)
        begun = with_begin(database.engine.url)
        engines += plain, begun
        designs: dict[str, tuple[Unit, bool]] = {
            "bare": (lambda: AsyncSession(plain), False),
            "commit": (lambda: AsyncSession(plain), True),
            "session": (database.session, False),
            "read_session": (database.read_session, False),
            "deadline": (database.session, False),
        }
        if url.startswith("sqlite"):
            designs["begun"] = (lambda: AsyncSession(begun), True)
        for unit, commits in designs.values():
            await units(unit, 10, commits=commits)
        gc.collect()
        gc.disable()
        control("-i", "on")
        for name, (unit, commits) in designs.items():
            far = Deadline(asyncio.get_running_loop().time() + 600)
            with in_force(far if name == "deadline" else None):
                await units(unit, 5, commits=commits)
                control("-z")
                await units(unit, CALLS, commits=commits)
                control("-d", name)
    for engine in engines:
        await engine.dispose()


async def prepare(url: str) -> None:
    async with Database(url) as database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with database.session() as session:
            await session.merge(Item(id=1, name="bolt", quantity=3))


def measure(url: str) -> None:
    """Print the instructions of each design, and how they compare with a bare session."""
    asyncio.run(prepare(url))
    with tempfile.TemporaryDirectory() as folder:
        tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no"]
        command = [*tool, f"--callgrind-out-file={folder}/out", sys.executable, __file__, url]
        subprocess.run(command, check=True, capture_output=True)
        found: dict[str, float] = {}
        for dump in Path(folder).glob("out.*"):
            text = dump.read_text()
            name = re.search(r"^desc: Trigger: .*?(\w+)$", text, re.M)
            total = re.search(r"^(?:totals|summary): (\d+)", text, re.M)
            if name and total:
                found[name[1]] = int(total[1]) / CALLS / 1000
    print(url.partition(":")[0], "instructions of one unit of work, beside a bare session:")
    for name, thousands in sorted(found.items(), key=lambda one: one[1]):
        print(f"  {name:13} {thousands:6.0f} thousand  {thousands / found['bare']:.3f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(counted(sys.argv[1]))
    else:
        with running_postgres() as own:
            measure(own)
            measure(own.replace("+asyncpg", "+psycopg"))
        with tempfile.TemporaryDirectory() as home:
            measure(f"sqlite:///{home}/bench.db")
