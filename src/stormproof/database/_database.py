"""The database of a service: an engine, its pool, and the units of work on it."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, TypeVar, TypeVarTuple, overload

from sqlalchemy import Row, Select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from stormproof import errors
from stormproof._core.events import CommitFailed, Events, PoolWaitExpired
from stormproof._core.lifecycle import Lifecycle, Loss

from ._engine import new_engine, read_only_options
from ._faults import first_line
from ._gate import Gate
from ._pool import Checkout, GatedPool, PoolStatistics
from ._retry import Retries
from ._session import DatabaseSession
from ._settings import check_pool, check_unready_after, checked_options, parsed_url, place
from ._stream import RowStream
from ._sync import SyncUnits
from ._sync_session import SyncSession
from ._unit import UnitOfWork
from ._watch import Watch

T = TypeVar("T")
U = TypeVar("U")
Ts = TypeVarTuple("Ts")


class Database:
    """A pool of connections and the units of work on it.

    It is a part of the lifecycle: opened with the service, drained after the last request, then
    closed. In a script or a test, `async with database:` opens and closes it. The constructor
    does no I/O.

    Args:
        url: "sqlite:///items.db" (driver aiosqlite) or "postgresql://user:password@host/name"
            (driver asyncpg; with the scheme "postgresql+psycopg", psycopg). An in-memory SQLite
            is refused.
        pool_size: Connections kept open, at least 1.
        max_overflow: Connections opened beyond that while many are needed, 0 or more.
        max_wait: Longest wait for a connection, in seconds; 0 means not to wait. The deadline
            of the request shortens it.
        pre_ping: Whether a connection is tested when it is taken from the pool.
        unready_after: Seconds without a connection to be had after which `/readyz` answers 503,
            until there is one again; at least about 1.5 s pass, for it is looked once a second.
            None: the service is ready without this database.
        engine_options: Further arguments of SQLAlchemy's `create_async_engine`.
        name: What messages and the drain's report call it.

    Raises:
        InvalidSetting: An argument cannot be used; the message names it, never the password.
        MissingExtra: The driver for the URL is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 20,
        max_overflow: int = 10,
        max_wait: float = 2.0,
        pre_ping: bool = True,
        unready_after: float | None = 1.0,
        engine_options: Mapping[str, Any] | None = None,
        name: str = "database",
    ) -> None:
        check_pool(pool_size, max_overflow, max_wait)
        check_unready_after(unready_after)
        options = checked_options(engine_options)
        self._url = parsed_url(url)
        self._name = name
        self._place = place(self._url)
        self._pool_size = pool_size
        self._events = Events()
        self._unready_after = unready_after
        self._watch: Watch | None = None
        self._is_open = False
        self._joined: AsyncConnection | None = None
        self._out: dict[Any, Checkout] = {}
        self._gate = self._new_gate(
            pool_size + max_overflow,
            max_wait,
            f"the connections of {name!r}",
            "hold sessions for less time, enlarge the pool, or limit requests earlier",
        )
        self._writers = self._new_gate(
            1,
            max_wait,
            f"the one writer of SQLite at {self._place}",
            "write in shorter units of work, read with read_session(), or move to PostgreSQL",
        )
        self._sync: SyncUnits | None = None
        self._sync_options = {k: v for k, v in options.items() if k != "connect_args"}
        self._pre_ping = pre_ping
        self._engine = new_engine(
            self._url,
            options,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pre_ping=pre_ping,
            gate=self._gate,
            writers=self._writers,
            out=self._out,
        )

    def __repr__(self) -> str:
        return f"Database({self._url.render_as_string(hide_password=True)!r})"

    @property
    def name(self) -> str:
        """What messages and the drain's report call it."""
        return self._name

    @property
    def engine(self) -> AsyncEngine:
        """SQLAlchemy's engine, for migrations: `async with database.engine.begin() as connection`.

        Its connections come from the same pool; who opens them closes them.
        """
        return self._engine

    def session(self) -> AbstractAsyncContextManager[DatabaseSession]:
        """Return one unit of work: committed when the block ends, undone when it raises.

        Entering waits for nothing; the first statement takes a connection, and waits for it at
        most `max_wait` seconds and never past the deadline. When the block ends cleanly, the
        COMMIT has succeeded before the next line runs. When it raises, or is cancelled, all is
        rolled back. The connection is back in the pool in every case.

        On SQLite a unit of work is a writer (BEGIN IMMEDIATE): one at a time, first come first
        served. Use `read_session` for what only reads.

        Raises:
            NotStarted: The database is not open.
            CommitFailed: The database refused the COMMIT; nothing was stored.
            DeadlineExceeded: The deadline had passed at the end; nothing was stored.
            DatabaseUnavailable: The connection was lost; its message says if during the COMMIT.
        """
        return self._unit_of_work({})

    def read_session(self) -> AbstractAsyncContextManager[DatabaseSession]:
        """Return a unit of work that only reads: the database refuses its writes.

        As `session`, but on SQLite it waits for no writer and holds none up. What it reads is
        one snapshot on SQLite; on PostgreSQL it is a READ ONLY transaction.
        """
        return self._unit_of_work(read_only_options(self._url))

    def transaction(self, *, retries: int = 3) -> Retries:
        """Return a decorator that runs an async function as a unit of work, again if need be.

        The function gets the session as its first argument; who calls it leaves that out. When
        another transaction was in the way (a serialization failure or a deadlock of PostgreSQL,
        the lock of SQLite), everything it did is undone and it is called again, after a short
        random pause, at most `retries` times and never past the deadline. It is not called
        again when it has committed in its middle. What it does outside of the database it does
        again: put that into `session.on_commit`.

        Args:
            retries: How often it is repeated at most, 0 or more.

        Raises (when it is called):
            TransactionConflict: It was repeated as often as it may be; nothing is stored.
            All that `session` raises.
        """
        return Retries(lambda: self._unit_of_work({}), retries=retries, events=lambda: self._events)

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

    def statistics(self) -> PoolStatistics:
        """Return the pool's numbers of this moment."""
        opened = self._engine.pool
        assert isinstance(opened, GatedPool)
        return PoolStatistics(
            size=self._pool_size,
            in_use=self._gate.in_use,
            waiting=self._gate.waiting + self._writers.waiting,
            overflow=max(0, opened.overflow()),
            timeouts=self._gate.timeouts + self._writers.timeouts,
        )

    async def open(self, lifecycle: Lifecycle) -> None:
        """Connect once, so that a wrong URL or a dead server stops the start; then keep watch.

        Waits at most 5 s for the server. Cancelled: nothing is left open. From here to the drain
        a task looks once a second whether a connection can be had: see `unready_after`.

        Raises:
            DatabaseUnavailable: The server cannot be reached or refused us.
            StartFailed: It was reached, but does not work with these settings.
        """
        self._events = lifecycle.events
        await self._connect_once()
        if self._unready_after is not None:
            self._watch = Watch(
                self._gate,
                self._ask_server,
                name=f"part {self._name!r}",
                unready_after=self._unready_after,
                lifecycle=lifecycle,
            )

    async def _connect_once(self) -> None:
        try:
            async with self._engine.connect() as connection:
                await connection.exec_driver_sql("SELECT 1")
        except BaseException as error:
            await self._engine.dispose()
            if isinstance(error, errors.StormproofError) or not isinstance(error, Exception):
                raise
            raise errors.StartFailed(
                f"the database at {self._place} does not work with these settings: "
                f"{first_line(error)}; check the URL and engine_options"
            ) from error
        self._is_open = True

    async def drain(self, until: float) -> Sequence[Loss]:
        """Wait until every connection is back, at most until the loop time `until`.

        Returns:
            One loss for each connection still in use, with its age and the task that took it.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(until):
                await self._end_watch()
                await self._gate.emptied.wait()
        except TimeoutError:
            now = loop.time()
            return [
                Loss("part", self._name, now - out.at, f"a connection taken by {out.task!r}")
                for out in self._out.values()
            ]
        return []

    async def close(self) -> None:
        """Close idle connections now and those in use when they come back; twice is harmless."""
        self._is_open = False
        await self._end_watch()
        if self._sync is not None:
            await self._sync.close()
            self._sync = None
        await self._engine.dispose()

    async def __aenter__(self) -> "Database":
        await self._connect_once()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _ask_server(self) -> None:
        async with self._engine.connect() as connection:
            # Without a transaction, which on SQLite would wait for the writer.
            alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await alone.exec_driver_sql("SELECT 1")

    async def _end_watch(self) -> None:
        if self._watch is not None:
            await self._watch.stop()

    def _unit_of_work(self, options: Mapping[str, Any]) -> UnitOfWork:
        return UnitOfWork(self._new_session(options), self._events)

    def _new_session(self, options: Mapping[str, Any]) -> DatabaseSession:
        self._check_open()
        if self._joined is None:
            return DatabaseSession(
                self._engine, place=self._place, options=options, events=self._events
            )
        # In a test's transaction, which has begun: nothing can be set for it any more.
        session = DatabaseSession(self._joined, place=self._place, options={}, events=self._events)
        session.sync_session.join_transaction_mode = "create_savepoint"
        return session

    @asynccontextmanager
    async def _sync_unit(self, *, is_reader: bool) -> AsyncIterator[SyncSession]:
        self._check_open()
        if self._joined is not None:
            raise errors.InvalidSetting(
                "a sync session cannot join the transaction of rolled_back(): its driver is "
                "another one; test it on a database of its own"
            )
        if self._sync is None:
            self._sync = SyncUnits(
                self._url,
                self._sync_options,
                size=self._pool_size,
                pre_ping=self._pre_ping,
                gate=self._gate,
                writers=self._writers,
                out=self._out,
            )
        try:
            async with self._sync.unit(is_reader=is_reader) as session:
                yield session
        except errors.CommitFailed as error:
            self._events.emit(CommitFailed(error.message))
            raise

    def _check_open(self) -> None:
        if not self._is_open:
            raise errors.NotStarted(
                f"{self._name!r} ({self._place}) is not open; pass it to install(), "
                "or use it inside `async with database:`"
            )

    def _new_gate(self, capacity: int, max_wait: float, what: str, advice: str) -> Gate:
        def expired(waited: float) -> None:
            self._events.emit(PoolWaitExpired(waited, capacity))

        return Gate(capacity, max_wait=max_wait, what=what, advice=advice, on_timeout=expired)
