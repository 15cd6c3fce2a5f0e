"""A SQLite file, worked on by one thread: each transaction is one visit to it."""

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

Rows: TypeAlias = Sequence[Mapping[str, Any]]
Run: TypeAlias = Callable[[str, tuple[Any, ...]], Rows]
"""Runs one statement with its parameters and returns its rows."""

_TRY_EVERY = 0.001


class SqliteFile:
    """One connection in a thread of its own.

    A transaction that is begun on the event loop holds the only write lock for as long as the
    loop is blocked, by a job for example: nobody else could write for that time. Here it ends
    in the thread that has begun it. The lock is tried for every millisecond: SQLite's own wait
    grows to 0.1 s between two tries, and starves beside writers that come one after another.

    Args:
        path: The file.
        patience: Longest wait for the write lock, in seconds.
    """

    def __init__(self, path: str, *, patience: float) -> None:
        self._path = path
        self._patience = patience
        self._thread = ThreadPoolExecutor(1, "jobs store")
        self._connection: sqlite3.Connection | None = None
        self._is_flushing: bool | None = None

    async def read(self, function: Callable[[Run], T]) -> T:
        """Call `function(run)` outside of a transaction; it waits for no writer."""
        return await self._visit(lambda connection: function(_runner(connection)))

    async def write(self, function: Callable[[Run], T], *, flush: bool = True) -> T:
        """Call `function(run)` in a transaction: committed when it returns, undone if it raises.

        Cancelled: it goes on to its end.

        Args:
            function: Runs the statements.
            flush: Whether the COMMIT waits for the disk. Without, a power cut (no crash of the
                process or of another) may undo it; what came before it on any connection that
                does wait stays.

        Raises:
            sqlite3.OperationalError: The lock did not come free in time, or SQLite refuses.
        """
        return await self._visit(lambda connection: self._write(connection, function, flush))

    async def close(self) -> None:
        """Close the connection and end the thread."""
        await asyncio.to_thread(self._thread.shutdown)
        if self._connection is not None:
            self._connection.close()

    async def _visit(self, function: Callable[[sqlite3.Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: function(self._open()))

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(
                self._path, timeout=0, isolation_level=None, check_same_thread=False
            )
            connection.row_factory = _as_dict
            self._connection = connection
        return self._connection

    def _write(
        self, connection: sqlite3.Connection, function: Callable[[Run], T], flush: bool
    ) -> T:
        if flush is not self._is_flushing:
            connection.execute(f"PRAGMA synchronous = {'FULL' if flush else 'NORMAL'}")
            self._is_flushing = flush
        self._begin(connection)
        try:
            result = function(_runner(connection))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result

    def _begin(self, connection: sqlite3.Connection) -> None:
        give_up_at = time.monotonic() + self._patience
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                if time.monotonic() >= give_up_at:
                    raise
                time.sleep(_TRY_EVERY * random.uniform(0.5, 1.5))
            else:
                return


def _runner(connection: sqlite3.Connection) -> Run:
    return lambda statement, parameters: connection.execute(statement, parameters).fetchall()


def _as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}
