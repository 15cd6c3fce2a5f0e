"""For tests: a block in which all units of work are part of one transaction, undone at its end."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from stormproof.errors import InvalidSetting

from ._database import Database
from ._session import DatabaseSession


@asynccontextmanager
async def rolled_back(database: Database) -> AsyncIterator[DatabaseSession]:
    """Run what is inside in one transaction; see `stormproof.testing.rolled_back`."""
    if database._joined is not None:
        raise InvalidSetting(f"rolled_back({database!r}) is inside another one; use one a test")
    async with AsyncExitStack() as stack:
        if not database._is_open:
            await stack.enter_async_context(database)
        connection = await stack.enter_async_context(database.engine.connect())
        transaction = await connection.begin()
        stack.push_async_callback(transaction.rollback)
        database._joined = connection
        session = database._new_session({})
        try:
            yield session
        finally:
            database._joined = None
            await session.end()
