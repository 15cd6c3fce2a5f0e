"""Psycopg: transactions that the server itself ends before the deadline, async and in threads."""

from typing import Any

from psycopg import BaseConnection, Connection
from psycopg.abc import PQGen
from psycopg.errors import error_from_result
from psycopg.generators import execute
from psycopg.pq import ExecStatus, TransactionStatus

from stormproof._core.deadline import current_deadline

from ._statement_timeout import LEARN, StatementTimeout


class TimedConnection(BaseConnection[Any]):
    """Half of a connection: its transactions begin with the deadline as their `statement_timeout`.

    psycopg asks `_start_query` before each statement, in async code and in threads, for what has
    to go before it: that is where it sends BEGIN.
    """

    _timeout: StatementTimeout | None = None

    def _start_query(self) -> PQGen[None]:
        if self.autocommit or current_deadline() is None:
            return super()._start_query()
        return self._start_in_time()

    def _start_in_time(self) -> PQGen[None]:
        status = self.pgconn.transaction_status
        if status == TransactionStatus.IDLE:
            yield from self._begin()
        elif status == TransactionStatus.INTRANS and self._timeout is not None:
            renewal = self._timeout.renewal()
            if renewal is not None:
                yield from self._exec_command(renewal.encode())

    def _begin(self) -> PQGen[None]:
        if self._timeout is None:
            known = None if self._pipeline else (yield from self._learned())
            self._timeout = StatementTimeout(known)
        limit = self._timeout.begun().encode()
        if not limit:
            yield from super()._start_query()
        elif self._pipeline:  # many rows at once, where a message has one command
            yield from super()._start_query()
            yield from self._exec_command(limit)
        else:
            self.pgconn.send_query(self._get_tx_start_command() + b";" + limit)
            for result in (yield from execute(self.pgconn)):
                if result.status == ExecStatus.FATAL_ERROR:
                    raise error_from_result(result, encoding=self.info.encoding)

    def _learned(self) -> PQGen[int]:
        """Ask once for the `statement_timeout` that role or database have; ours is never longer.

        By the first transaction under a deadline, which bounds this wait, too.
        """
        result = yield from self._exec_command(LEARN.encode())
        found = result.get_value(0, 0) if result else None
        return int(found or 0)


class ThreadConnection(TimedConnection, Connection[Any]):
    """The connection of code in threads."""
