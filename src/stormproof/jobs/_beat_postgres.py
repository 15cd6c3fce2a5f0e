"""The heartbeat on PostgreSQL: a thread with a loop and a connection of its own."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from ._driver import fetch, run
from ._leases import Leases
from ._postgres_sql import Statements
from ._words import first_line

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_log = logging.getLogger("stormproof")


class PostgresBeat:
    """Keeps the leases of one worker alive although its loop is blocked.

    Args:
        new_engine: Makes an engine of one connection.
        sql: Our statements.
        leases: What to keep alive.
        every: Seconds between two heartbeats.
        cancel: Called with each job that is not ours any more.
    """

    def __init__(
        self,
        new_engine: "Callable[[], AsyncEngine]",
        sql: Statements,
        leases: Leases,
        every: float,
        cancel: Callable[[int], None],
    ) -> None:
        self._new_engine = new_engine
        self._sql = sql
        self._leases = leases
        self._every = every
        self._cancel = cancel
        self._is_stopped = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def stop(self) -> None:
        """End `run` soon."""
        self._is_stopped.set()
        if self._loop is not None and self._stop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._stop.set)

    def run(self) -> None:
        """Beat until `stop`."""
        asyncio.run(self._beat_until_stopped())

    async def _beat_until_stopped(self) -> None:
        self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()
        engine = self._new_engine()
        is_away = False
        try:
            while not self._is_stopped.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), self._every)
                    break
                try:
                    await asyncio.wait_for(self._beat(engine), self._every * 2)
                    is_away = False
                except Exception as error:
                    if not is_away:
                        what = first_line(error)
                        _log.warning("jobs: the heartbeat cannot reach the database: %s", what)
                    is_away = True
        finally:
            await engine.dispose()

    async def _beat(self, engine: "AsyncEngine") -> None:
        ids = self._leases.ids()
        if not ids:
            return
        alone = engine.execution_options(isolation_level="AUTOCOMMIT")
        async with alone.connect() as connection:
            owned = (self._leases.worker, ids)
            await connection.run_sync(run, self._sql.beat, owned)
            rows = await connection.run_sync(fetch, self._sql.alive, owned)
        for job_id in set(ids) - {row["id"] for row in rows} - self._leases.finished:
            self._cancel(job_id)
