"""Dependencies that give an endpoint a unit of work on a database."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import Depends

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from stormproof.database import Database, SyncSession


def session(database: "Database") -> Any:
    """Return a dependency that gives the endpoint a unit of work on `database`.

    To be used as `Session = Annotated[AsyncSession, stormproof.session(database)]`.
    COMMIT happens after the endpoint returned and its result was serialized, and **before the
    response is sent**, so a failed COMMIT is never answered with success. An exception
    (HTTPException and cancellation too) rolls back. In a streaming endpoint the session has
    ended before the first item: open `database.session()` inside the generator instead.

    Raises (in the request):
        PoolTimeout, CommitFailed, DatabaseUnavailable, DeadlineExceeded: as `Database.session`.
    """

    async def unit_of_work() -> "AsyncIterator[AsyncSession]":
        async with database.session() as work:
            yield work

    return Depends(unit_of_work, scope="function")


def read_session(database: "Database") -> Any:
    """Return a dependency that gives the endpoint a unit of work that only reads.

    To be used like `session`, and in preference to it for what does not write: on SQLite a
    `session` is a writer, of which there is one at a time; readers wait for nobody.
    """

    async def reading() -> "AsyncIterator[AsyncSession]":
        async with database.read_session() as work:
            yield work

    return Depends(reading, scope="function")


def sync_session(database: "Database") -> Any:
    """Return a dependency that gives `def` endpoints and dependencies a unit of work.

    To be used as `Session = Annotated[SyncSession, stormproof.sync_session(database)]`. The
    request waits for a place in the pool before a thread is taken for it; otherwise 40 threads
    wait for 15 connections, and those who have one wait for a thread. All who depend on it in
    one request share one session, however often this was called. COMMIT happens before the
    response is sent, as with `session`.

    Raises (in the request):
        PoolTimeout, CommitFailed, DatabaseUnavailable, DeadlineExceeded: as
            `Database.sync_session`.
        MissingExtra: The sync driver is not installed (raised here, not in the request).
    """
    database.prepare_sync()
    return Depends(_SyncUnit(database, is_reader=False), scope="function")


def sync_read_session(database: "Database") -> Any:
    """Return a dependency that gives `def` endpoints a unit of work that only reads.

    To be used like `sync_session`, and in preference to it for what does not write.
    """
    database.prepare_sync()
    return Depends(_SyncUnit(database, is_reader=True), scope="function")


@dataclass(frozen=True)
class _SyncUnit:
    """The dependency; equal for one database, so that FastAPI makes one session a request."""

    database: "Database"
    is_reader: bool

    async def __call__(self) -> "AsyncIterator[SyncSession]":
        database = self.database
        unit = database.sync_read_session if self.is_reader else database.sync_session
        async with unit() as work:
            yield work
