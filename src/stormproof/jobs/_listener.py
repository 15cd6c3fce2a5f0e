"""The listener: hears the NOTIFY of other processes, and says so."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from ._words import first_line

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_PAUSE = 0.5
_LOOK_EVERY = 5.0
_ASK_EVERY = 20.0
"""Seconds after which it asks the server whether it is still there: silence sounds like peace."""

_PATIENCE = 5.0

_log = logging.getLogger("stormproof")


class Listener:
    """Keeps one connection that listens, and connects again when it is lost.

    Args:
        new_engine: Makes an engine of one connection.
        channel: What to listen to.
        wake: Called when there may be something to pick, and when the connection is new: what
            was told in between nobody has heard.
        cancel: Called with each job that somebody cancels.
    """

    def __init__(
        self,
        new_engine: "Callable[[], AsyncEngine]",
        channel: str,
        wake: Callable[[], None],
        cancel: Callable[[int], None],
    ) -> None:
        self._new_engine = new_engine
        self._channel = channel
        self._wake = wake
        self._cancel = cancel
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._listen(), name="jobs listener")

    async def stop(self) -> None:
        """Stop listening; the connection is closed when this returns."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _listen(self) -> None:
        engine = self._new_engine()
        try:
            while True:
                try:
                    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
                    async with alone.connect() as connection:
                        await self._listen_on(connection)
                except Exception as error:
                    _log.debug("jobs: the listener lost its connection: %s", first_line(error))
                await asyncio.sleep(_PAUSE)
        finally:
            await engine.dispose()

    async def _listen_on(self, connection: "AsyncConnection") -> None:
        raw = await connection.get_raw_connection()
        driver: Any = raw.driver_connection
        try:
            if connection.dialect.driver == "asyncpg":
                await self._with_asyncpg(driver)
            else:
                await self._with_psycopg(driver)
        finally:
            await connection.invalidate()  # it would be pooled as a connection that listens

    async def _with_asyncpg(self, driver: Any) -> None:
        lost = asyncio.Event()

        def heard(_connection: object, _pid: object, _channel: object, notice: str) -> None:
            self._hear(notice)

        driver.add_termination_listener(lambda _: lost.set())
        await driver.add_listener(self._channel, heard)
        self._wake()
        while not lost.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(lost.wait(), _ASK_EVERY)
            await asyncio.wait_for(driver.execute("SELECT 1"), _PATIENCE)

    async def _with_psycopg(self, driver: Any) -> None:
        await driver.execute(f'LISTEN "{self._channel}"')
        self._wake()
        asked_at = time.monotonic()
        while True:
            async for notice in driver.notifies(timeout=_LOOK_EVERY, stop_after=1):
                self._hear(notice.payload)
            if time.monotonic() - asked_at >= _ASK_EVERY:
                await asyncio.wait_for(driver.execute("SELECT 1"), _PATIENCE)
                asked_at = time.monotonic()

    def _hear(self, notice: str) -> None:
        try:
            told = from_json(notice)
        except ValueError:
            return
        if told.get("type") == "cancellation_event":
            for job_id in told.get("ids", ()):
                self._cancel(job_id)
        elif told.get("operation") != "delete":  # jobs that ended: nothing to pick in that
            self._wake()
