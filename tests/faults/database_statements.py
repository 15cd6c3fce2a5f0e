"""What both database services run: statements that take a while on SQLite, and a storm."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from stormproof.demo.items import Item

_COUNT = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) "
    "SELECT count(*) FROM n"
)
SHORT = text(_COUNT.format(20_000))
"""Some milliseconds."""
ENDLESS = text(_COUNT.format(10**12))
"""Days."""

OPERATIONS = 400
_AT_ONCE = 10

Sessions = Callable[[], AbstractAsyncContextManager[AsyncSession]]


@dataclass(slots=True)
class Storm:
    """What became of operations that stored a row each, by the row's name.

    Attributes:
        began: Those that were started.
        committing: Those that got as far as the COMMIT.
        acknowledged: Those whose unit of work ended without an exception.
        errors: What others than the cancelled ones raised.
    """

    began: list[str] = field(default_factory=list)
    committing: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


async def run_storm(sessions: Sessions) -> Storm:
    """Store 400 rows, ten at a time; cancel most of that at random, and again until it ends."""
    storm = Storm()
    chance = random.Random(24)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def operation(name: str) -> None:
        storm.began.append(name)
        async with sessions() as session:
            session.add(Item(name=name))
            await session.flush()
            await session.execute(select(Item.id).where(Item.name == name))
            storm.committing.append(name)
        storm.acknowledged.append(name)

    async def attacked(name: str) -> None:
        async with gate:
            task = asyncio.create_task(operation(name))
            timeout = chance.uniform(0, 0.03) if chance.random() < 0.8 else 0.5
            while not (await asyncio.wait((task,), timeout=timeout))[0]:
                task.cancel()
                timeout = chance.uniform(0, 0.002)
            if not task.cancelled() and task.exception() is not None:
                storm.errors.append(repr(task.exception()))

    await asyncio.gather(*(attacked(f"row {n}") for n in range(OPERATIONS)))
    return storm
