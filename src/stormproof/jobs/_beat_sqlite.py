"""The heartbeat on SQLite, which is also the ear: it sees when the file was changed."""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable

from . import _sqlite_sql as sql
from ._leases import Leases
from ._words import first_line

_LOOK_EVERY = 0.02
"""Seconds between two looks whether the file was changed: 5 µs each, and 1 % of a core."""

_log = logging.getLogger("stormproof")


class SqliteBeat:
    """Keeps the leases of one worker alive, and wakes it when other processes have written.

    Args:
        path: The file.
        leases: What to keep alive.
        every: Seconds between two heartbeats.
        wake: Called when there may be something to pick.
        cancel: Called with each job that is not ours any more.
    """

    def __init__(
        self,
        path: str,
        leases: Leases,
        every: float,
        *,
        wake: Callable[[], None],
        cancel: Callable[[int], None],
    ) -> None:
        self._path = path
        self._leases = leases
        self._every = every
        self._wake = wake
        self._cancel = cancel
        self._stop = threading.Event()
        self._is_away = False

    def stop(self) -> None:
        """End `run` soon."""
        self._stop.set()

    def run(self) -> None:
        """Beat until `stop`, with a new connection after each failure."""
        while not self._stop.is_set():
            try:
                connection = sqlite3.connect(self._path, timeout=self._every, isolation_level=None)
                try:
                    self._beat_on(connection)
                finally:
                    connection.close()
            except sqlite3.Error as error:
                if not self._is_away:
                    _log.warning(
                        "jobs: the heartbeat cannot use %s: %s", self._path, first_line(error)
                    )
                self._is_away = True
                self._stop.wait(min(1.0, self._every))

    def _beat_on(self, connection: sqlite3.Connection) -> None:
        version, later = -1, None
        next_at = 0.0
        while not self._stop.wait(_LOOK_EVERY):
            if time.monotonic() >= next_at:
                self._beat(connection)
                self._is_away = False
                next_at = time.monotonic() + self._every
            (seen,) = connection.execute("PRAGMA data_version").fetchone()
            if seen != version:
                version = seen
                later = self._look(connection, later)

    def _beat(self, connection: sqlite3.Connection) -> None:
        ids = self._leases.ids()
        if ids:
            owned = (time.time(), str(self._leases.worker), *ids)
            connection.execute(sql.beat(len(ids)), owned)

    def _look(self, connection: sqlite3.Connection, known: float | None) -> float | None:
        """Wake for new work, cancel what was taken from us; return when the next delayed is due."""
        due = connection.execute(
            "SELECT 1 FROM stormproof_jobs WHERE status = 'queued' AND is_due = 1 LIMIT 1"
        )
        later: float | None = connection.execute(sql.NEXT_LATER).fetchone()[0]
        if due.fetchone() or later != known:
            self._wake()
        ids = self._leases.ids()
        if ids:
            worker = str(self._leases.worker)
            rows = connection.execute(sql.alive(len(ids)), (worker, *ids)).fetchall()
            for job_id in set(ids) - {row[0] for row in rows} - self._leases.finished:
                self._cancel(job_id)
        return later
