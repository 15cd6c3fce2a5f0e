"""SQLite for threads: the same pragmas and transactions as the async connections have."""

import math
import sqlite3
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Engine, event

from stormproof._core.deadline import bounded

from ._gate import Gate
from ._sqlite import READ_ONLY, TidyConnection, begin_refused

# The driver must not begin transactions of its own accord, and each endpoint, dependency and
# COMMIT may run in another thread, one after another.
ARGUMENTS: Mapping[str, Any] = {
    "factory": TidyConnection,
    "isolation_level": None,
    "check_same_thread": False,
}


def isolate(engine: Engine, writers: Gate, place: str, *, busy_ms: int) -> None:
    """Set up each connection, and make each transaction begin as a writer or as a reader.

    The writers' gate was passed on the loop.
    """

    @event.listens_for(engine, "connect")
    def connect(raw: sqlite3.Connection, _: object) -> None:
        raw.execute(f"PRAGMA busy_timeout = {busy_ms}")
        raw.execute("PRAGMA journal_mode = WAL")
        raw.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        raw: Any = connection.connection.driver_connection
        is_reader = connection.get_execution_options().get(READ_ONLY, False)
        wait = bounded(writers.max_wait)
        try:
            raw.execute(f"PRAGMA busy_timeout = {math.ceil(wait * 1000)}")
            raw.execute(f"PRAGMA query_only = {int(is_reader)}")
            raw.execute("BEGIN" if is_reader else "BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise begin_refused(error, wait, writers, place) from error
