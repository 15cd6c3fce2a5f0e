"""The lookout: asks one server one thing, on a connection of its own beside the pool."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ._probe import Probe

PRIMARY = (
    "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() "
    "ELSE pg_current_wal_flush_lsn() END - '0/0'::pg_lsn)::bigint"
)
"""How far the primary is. What it has not flushed yet, no standby can have."""

STANDBY = (
    "SELECT CASE WHEN pg_is_in_recovery() "
    "THEN (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint END"
)
"""How far a standby is; NULL when it is none."""

IS_UP = "SELECT 1"


_LIMIT = 1.0
"""Seconds an answer may take."""


class Lookout:
    """Asks `question`, whose answer is one number.

    Its connection is not of the pool: with a full one it could not tell a busy server from one
    that is behind.

    Args:
        engine: Makes connections that nobody keeps (NullPool), without transactions.
        question: A statement that gives one value.
    """

    def __init__(self, engine: AsyncEngine, question: str) -> None:
        self._engine = engine
        self._question = question
        self._connection: AsyncConnection | None = None
        self._probe: Probe[Any] = Probe(self._ask, limit=_LIMIT)

    async def answer(self) -> int | None:
        """Return the answer, within a second; raises what went wrong."""
        number: int | None = await self._probe.answer()
        return number

    async def stop(self) -> None:
        """Ask no more, and close the connection."""
        await self._probe.stop()
        if self._connection is not None:
            await self._drop(self._connection)

    async def _ask(self) -> Any:
        if self._connection is not None:
            try:
                return await self._asked(self._connection)
            except Exception:
                pass  # it may have been cut while it was idle: the server is asked anew
        self._connection = await self._engine.connect()
        return await self._asked(self._connection)

    async def _asked(self, connection: AsyncConnection) -> Any:
        try:
            return (await connection.exec_driver_sql(self._question)).scalar_one()
        except BaseException:
            await self._drop(connection)
            raise

    async def _drop(self, connection: AsyncConnection) -> None:
        self._connection = None
        try:
            await connection.invalidate()
        finally:
            await connection.close()
