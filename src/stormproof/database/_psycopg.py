"""Psycopg: connections whose cancelled statement ends soon, also on a network gone silent."""

import asyncio
import select
from contextlib import suppress
from typing import Any

from psycopg import AsyncConnection, BaseConnection, Error, OperationalError
from psycopg.errors import InFailedSqlTransaction
from psycopg.pq import TransactionStatus

from ._faults import NotSent
from ._psycopg_timeout import TimedConnection
from ._waiting import sever

_CANCEL_EVERY = 0.05
_CANCEL_LIMIT = 1.0
"""Seconds one request to cancel may take."""
_SEVER_AFTER = 1.5
"""Seconds from the first request on, after which the connection is given up."""

_ROLLED_BACK = "an earlier statement failed, and the server rolled everything back"


class CuttableConnection(TimedConnection, AsyncConnection[Any]):
    """A psycopg connection that asks more than once to cancel, and then hangs up.

    psycopg asks once and waits 5 s for the statement's end. A request that overtakes its
    statement is ignored by the server (6 of 12 cancellations within the first ticks took 5 s),
    and on a silent network both waits add up to 10 s.
    """

    _cutting: asyncio.Task[None] | None = None

    async def wait(self, *args: Any, **keywords: Any) -> Any:
        """Run one exchange with the server; cancelled, return when its statement has ended."""
        try:
            return await super().wait(*args, **keywords)
        finally:
            if self._cutting is not None:
                self._cutting.cancel()
                await asyncio.wait((self._cutting,))
                self._cutting = None

    async def commit(self) -> None:
        """As psycopg's, but a COMMIT that rolled back raises.

        Raises:
            NotSent: The connection had ended before.
            InFailedSqlTransaction: An earlier statement had failed; see `refuse_failed`.
        """
        refuse_ended(self)
        has_failed = self.pgconn.transaction_status == TransactionStatus.INERROR
        await super().commit()
        if has_failed:
            raise InFailedSqlTransaction(_ROLLED_BACK)

    def abandon(self) -> None:
        """Close at once, without a word to the server; nobody may be waiting for it."""
        self.pgconn.finish()

    async def _try_cancel(self, *, timeout: float = _CANCEL_LIMIT) -> None:
        self._cutting = asyncio.create_task(self._cut(), name="cut of a statement")

    async def _cut(self) -> None:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _SEVER_AFTER
        while loop.time() < give_up_at:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                return
            # Not psycopg's own: it logs the error, and the log's record keeps the socket open.
            with suppress(Error):
                await self.cancel_safe(timeout=_CANCEL_LIMIT)
            await asyncio.sleep(_CANCEL_EVERY)
        sever(self.fileno())


def refuse_ended(connection: BaseConnection[Any]) -> None:
    """Raise NotSent when the server has ended the connection; it is not asked, only listened to."""
    if connection.closed:
        raise NotSent("the connection is closed")
    arrived = select.poll()
    arrived.register(connection.fileno(), select.POLLIN)
    try:
        while arrived.poll(0):
            connection.pgconn.consume_input()
    except OperationalError as error:
        raise NotSent(str(error)) from error


def refuse_failed(connection: BaseConnection[Any]) -> None:
    """Raise InFailedSqlTransaction when an earlier statement of the transaction had failed.

    The server answers such a COMMIT with ROLLBACK and without an error, so the loss would be told
    to nobody.
    """
    if connection.pgconn.transaction_status == TransactionStatus.INERROR:
        raise InFailedSqlTransaction(_ROLLED_BACK)
