"""SQLite: connections whose statements can be cut short, and transactions that are isolated."""

import asyncio
import math
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast
from weakref import WeakSet

import aiosqlite
from aiosqlite.context import contextmanager
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from stormproof._core.deadline import bounded, remaining
from stormproof.errors import DatabaseUnavailable, DeadlineExceeded, PoolTimeout

from ._faults import is_busy
from ._gate import Gate
from ._pool import ENDING, HELD
from ._waiting import to_the_end

READ_ONLY = "stormproof_read_only"
"""Execution option of a connection whose transactions only read."""

# An interrupt that arrives between two steps of SQLite is forgotten, so it is repeated.
_INTERRUPT_EVERY = 0.01
# These are brief, and half of one is worse than a late one.
_NEVER_CUT = frozenset({"close", "commit", "rollback"})
_WRITER = "BEGIN IMMEDIATE"


class _Call:
    """One call on the connection's thread, which can be cut before it starts."""

    __slots__ = ("_function", "is_cut", "is_over")

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.is_cut = False
        self.is_over = False

    def __call__(self) -> Any:
        try:
            if self.is_cut:
                raise sqlite3.OperationalError("interrupted")
            return self._function()
        finally:
            self.is_over = True


class TidyConnection(sqlite3.Connection):
    """A connection that leaves no transaction, and so no lock, behind."""

    def __init__(self, database: str, **arguments: Any) -> None:
        super().__init__(database, **arguments)
        self.has_begun = False
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()

    def cursor(self, *arguments: Any) -> Any:
        """Return a cursor that does not outlive the connection."""
        cursor = super().cursor(*arguments)
        self._cursors.add(cursor)
        return cursor

    def commit(self) -> None:
        """COMMIT; when SQLite refuses it, roll back.

        A statement that failed may have ended the transaction (a full disk, OR ROLLBACK); the
        COMMIT after it would succeed, and the loss would be told to nobody. SQLite leaves a
        refused transaction open, and SQLAlchemy returns the connection to the pool like that:
        with the write lock, and unable to begin.
        """
        if self.has_begun and not self.in_transaction:
            self.has_begun = False
            raise sqlite3.OperationalError("an earlier statement rolled everything back")
        try:
            super().commit()
        except sqlite3.Error:
            self.rollback()
            raise

    def close(self) -> None:
        """Close the cursors, roll back, then close.

        A cancelled statement's cursor lives on in a traceback. With it, since Python 3.11, lives
        the closed connection; and while it is open, an interrupt refuses the ROLLBACK, too: the
        write lock stayed until the garbage collector came.
        """
        for cursor in list(self._cursors):
            with suppress(sqlite3.Error):
                cursor.close()
        with suppress(sqlite3.Error):
            self.rollback()
        super().close()


class InterruptibleConnection(aiosqlite.Connection):
    """An aiosqlite connection on which a cancelled statement really ends.

    Plain aiosqlite abandons the statement, and the next call (at least the closing) waits for
    it: a limit of 0.3 s came back after 19.9 s.
    """

    _busy_ms = -1
    _is_read_only = False
    _before: tuple[int, int] | None = None
    _has_ended_transaction = False
    _stopped: asyncio.Future[Any] | None = None

    def stop(self) -> asyncio.Future[Any] | None:
        """End the thread after its current call; asked twice, wait for the same end.

        The thread sees only the first stop: who waits for a second one waits for ever.
        """
        if self._stopped is None:
            self._stopped = super().stop()
        # shield: who is cancelled while waiting must not make the thread look ended.
        return None if self._stopped is None else asyncio.shield(self._stopped)

    def is_closed(self) -> bool:
        """Whether it has ended, or is about to."""
        return self._stopped is not None or self._connection is None

    def ending(self) -> asyncio.Future[Any] | None:
        """Return the future of the thread's end once that was asked for, else None."""
        return self._stopped

    async def _connect(self) -> aiosqlite.Connection:
        try:
            return await to_the_end(super()._connect())
        except asyncio.CancelledError:
            await to_the_end(self.close())
            raise
        finally:
            if self._stopped is not None:
                await asyncio.wait((self._stopped,))

    async def begin(self, statement: str | None, *, read_only: bool, busy_ms: int) -> None:
        """Begin a transaction in one visit to the connection's thread.

        Args:
            statement: "BEGIN", "BEGIN IMMEDIATE", or None for autocommit.
            read_only: Whether writes are refused until the next `begin`.
            busy_ms: How long to wait for another process's lock, in milliseconds.
        """
        await self._execute(self._begin, statement, read_only, busy_ms)

    def _begin(self, statement: str | None, read_only: bool, busy_ms: int) -> None:
        if busy_ms != self._busy_ms:
            self._conn.execute(f"PRAGMA busy_timeout = {busy_ms}")
            self._busy_ms = busy_ms
        if read_only != self._is_read_only:
            self._conn.execute(f"PRAGMA query_only = {int(read_only)}")
            self._is_read_only = read_only
        cast(TidyConnection, self._conn).has_begun = statement is not None
        if statement is not None:
            self._conn.execute(statement)
        self._before = self._changes() if statement == _WRITER else None

    async def has_changed(self) -> bool:
        """Whether rows or the schema were changed since `begin`."""
        return bool(await self._execute(lambda: self._before not in (None, self._changes())))

    def _changes(self) -> tuple[int, int]:
        # Neither counts the other's: CREATE TABLE changes no row.
        (schema,) = self._conn.execute("PRAGMA schema_version").fetchone()
        return self._conn.total_changes, schema

    @contextmanager
    async def cursor(self) -> aiosqlite.Cursor:
        """Return a cursor, without a visit to the thread: one costs 6 % of a small unit of work.

        Raises:
            ValueError: The connection is closed.
        """
        return aiosqlite.Cursor(self, self._conn.cursor())

    async def rollback(self) -> None:
        """Roll back; nothing is done, not even a visit, right after a COMMIT that succeeded."""
        if not self._has_ended_transaction:
            await super().rollback()

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._has_ended_transaction = False
        name = getattr(fn, "__name__", "")
        if name in _NEVER_CUT:
            result = await super()._execute(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
            self._has_ended_transaction = name in ("commit", "rollback")
            return result
        call = _Call(partial(fn, *args, **kwargs))
        try:
            return await super()._execute(call)  # type: ignore[no-untyped-call]
        except asyncio.CancelledError:
            call.is_cut = True
            self._cut(call)
            raise

    def _cut(self, call: _Call) -> None:
        if call.is_over or self._connection is None:
            return
        self._connection.interrupt()
        asyncio.get_running_loop().call_later(_INTERRUPT_EVERY, self._cut, call)


def connector(busy_ms: int) -> Callable[..., InterruptibleConnection]:
    """Return the function SQLAlchemy calls for each new connection.

    WAL lets readers work beside the writer. `synchronous` stays FULL: with NORMAL, a power cut
    loses the last acknowledged commits.
    """

    def connect(database: str, **arguments: Any) -> InterruptibleConnection:
        def opened() -> sqlite3.Connection:
            raw = TidyConnection(database, **arguments)
            try:
                raw.execute(f"PRAGMA busy_timeout = {busy_ms}")
                raw.execute("PRAGMA journal_mode = WAL")
                raw.execute("PRAGMA foreign_keys = ON")
            except BaseException:
                raw.close()
                raise
            return raw

        connection = InterruptibleConnection(opened, iter_chunk_size=64)
        connection._thread.daemon = True  # as SQLAlchemy does for connections it makes
        return connection

    return connect


def isolate(engine: AsyncEngine, writers: Gate, place: str) -> None:
    """Make each transaction of `engine` begin as what it is: a writer, or a reader.

    A deferred transaction that reads and then writes fails at once when another one wrote in
    between. Writers therefore take SQLite's only write lock at their start, in the order they
    came; without our gate they would poll for it, and some would starve.
    """

    @event.listens_for(engine.sync_engine, "checkout")
    def checkout(adapted: Any, record: ConnectionPoolEntry, _: object) -> None:
        info = record.record_info
        assert info is not None
        info[ENDING] = adapted.driver_connection.ending

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("isolation_level") == "AUTOCOMMIT":
            _begin(connection, None, writers, place)
        elif options.get(READ_ONLY, False):
            _begin(connection, "BEGIN", writers, place)
        else:
            _enter(connection, writers)
            _begin(connection, _WRITER, writers, place)


def has_changed(connection: Connection) -> bool:
    """Whether the transaction of `connection` has changed anything."""
    adapted = connection.connection.dbapi_connection
    assert adapted is not None
    return bool(adapted.run_async(InterruptibleConnection.has_changed))


def _enter(connection: Connection, writers: Gate) -> None:
    """Pass the writers' gate; the pool gives the place back together with the connection."""
    adapted, info = connection.connection.dbapi_connection, connection.connection.record_info
    if info is None or HELD in info:
        return
    assert adapted is not None
    adapted.run_async(lambda _: writers.acquire())
    info[HELD] = writers


def _begin(connection: Connection, statement: str | None, writers: Gate, place: str) -> None:
    adapted = connection.connection.dbapi_connection
    assert adapted is not None
    wait = bounded(writers.max_wait)
    begin = partial(
        InterruptibleConnection.begin,
        statement=statement,
        read_only=statement == "BEGIN",
        busy_ms=math.ceil(wait * 1000),
    )
    try:
        adapted.run_async(begin)
    except (sqlite3.Error, ValueError) as error:  # ValueError: aiosqlite, on a closed one
        raise begin_refused(error, wait, writers, place) from error


def begin_refused(error: Exception, wait: float, writers: Gate, place: str) -> Exception:
    """Return the error for a BEGIN that SQLite refused after `wait` seconds."""
    if not is_busy(error):
        return DatabaseUnavailable(f"SQLite at {place} cannot begin: {error}", retry_after=1)
    left = remaining()
    if left is not None and left <= 0:
        return DeadlineExceeded(f"the deadline passed while waiting for the lock of {place}")
    writers.count_timeout(wait)
    return PoolTimeout(
        f"another process kept the write lock of SQLite at {place} for {wait:.2f} s; "
        "shorten its transactions, or move to PostgreSQL",
        retry_after=1,
    )
