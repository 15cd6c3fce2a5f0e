"""The seed's `get_db` and our `Database` on one database each, side by side in this process."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from unittest.mock import patch

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from stormproof.database import Database
from stormproof.demo import seed
from stormproof.demo.items import Base


@dataclass(frozen=True, slots=True)
class Twin:
    """One way of working with a database.

    Attributes:
        engine: Its engine.
        session: A unit of work: committed at the end of the block.
        in_use: How many connections are checked out, as far as this way of working knows.
    """

    engine: AsyncEngine
    session: Callable[[], AbstractAsyncContextManager[AsyncSession]]
    in_use: Callable[[], int]


@asynccontextmanager
async def post_twin(url: str, *, pool_size: int = 5) -> AsyncIterator[Twin]:
    """The post's engine and `get_db`."""
    engine = create_async_engine(url, pool_size=pool_size, max_overflow=0, pool_pre_ping=True)
    try:
        with patch.object(seed, "engine", engine):
            await _create_tables(engine)
            yield Twin(engine, asynccontextmanager(seed.get_db), engine.pool.checkedout)
    finally:
        await engine.dispose()


@asynccontextmanager
async def our_twin(url: str, *, pool_size: int = 5) -> AsyncIterator[Twin]:
    """`stormproof.Database`."""
    async with Database(url, pool_size=pool_size, max_overflow=0) as database:
        await _create_tables(database.engine)
        yield Twin(database.engine, database.session, lambda: database.statistics().in_use)


async def _create_tables(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
