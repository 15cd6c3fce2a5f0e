"""Further ways into a database: rows page by page, and units of work for threads."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar, TypeVarTuple, overload

from sqlalchemy import Row, Select
from sqlalchemy.ext.asyncio import AsyncConnection

from stormproof import errors
from stormproof._core.events import CommitFailed, Events

from ._session import DatabaseSession
from ._stream import RowStream
from ._sync import SyncUnits
from ._sync_session import SyncSession

T = TypeVar("T")
U = TypeVar("U")
Ts = TypeVarTuple("Ts")


class Access(ABC):
    """The part of `Database` whose users hold no session on the loop."""

    _events: Events
    _sync: SyncUnits | None = None
    _joined: AsyncConnection | None = None
    """The connection of a test's block (`rolled_back`) that every unit of work joins, or None."""

    @abstractmethod
    def read_session(self) -> AbstractAsyncContextManager[DatabaseSession]:
        """Return a unit of work that only reads."""

    @abstractmethod
    def _check_open(self) -> None: ...

    @abstractmethod
    def _new_sync_units(self) -> SyncUnits: ...

    def sync_session(self) -> AbstractAsyncContextManager[SyncSession]:
        """Return one unit of work for code that runs in threads, as `def` endpoints do.

        Entering waits for a place in the pool on the loop, at most `max_wait` seconds and never
        past the deadline, and takes no thread for that; so no more threads use connections than
        there are connections. The place is the session's until the block has ended, the
        connection from its first statement on. The end is as of `session`: committed, or undone
        when it raises or is cancelled; a statement that still runs then is cut first.

        Raises:
            PoolTimeout: No place came free in time.
            MissingExtra: The sync driver is not installed (psycopg; SQLite has its own).
            NotStarted, CommitFailed, DeadlineExceeded, DatabaseUnavailable: as `session`.
        """
        return self._sync_unit(is_reader=False)

    def sync_read_session(self) -> AbstractAsyncContextManager[SyncSession]:
        """Return a unit of work for threads that only reads; as `sync_session` otherwise."""
        return self._sync_unit(is_reader=True)

    def prepare_sync(self) -> None:
        """Make the sync engine now and not at the first session: its driver takes time to load.

        Does no I/O on the network. `stormproof.sync_session(database)` calls it.

        Raises:
            MissingExtra: The sync driver is not installed.
        """
        if self._sync is None:
            self._sync = self._new_sync_units()

    @overload
    def stream(self, query: Select[T], *, page: int = 1000) -> RowStream[T]: ...

    @overload
    def stream(
        self, query: Select[T, U, *Ts], *, page: int = 1000
    ) -> RowStream[Row[T, U, *Ts]]: ...

    def stream(self, query: Select[*tuple[Any, ...]], *, page: int = 1000) -> RowStream[Any]:
        """Return the rows of `query`, to be read page by page, each in a session of its own.

        For bodies and loops that take their time: between two pages no connection is held. The
        rows come in the query's order, completed by the primary keys where it leaves rows equal.

        Args:
            query: A `select()` of entities or columns.
            page: Rows read at once, 1 or more.

        Raises:
            NotPageable: The query has no key to page by.
        """
        return RowStream(query, page=page, read_session=self.read_session)

    @asynccontextmanager
    async def _sync_unit(self, *, is_reader: bool) -> AsyncIterator[SyncSession]:
        self._check_open()
        if self._joined is not None:
            raise errors.InvalidSetting(
                "a sync session cannot join the transaction of rolled_back(): its driver is "
                "another one; test it on a database of its own"
            )
        self.prepare_sync()
        assert self._sync is not None
        try:
            async with self._sync.unit(is_reader=is_reader) as session:
                yield session
        except errors.CommitFailed as error:
            self._events.emit(CommitFailed(error.message))
            raise

    async def _close_sync(self) -> None:
        if self._sync is not None:
            await self._sync.close()
            self._sync = None
