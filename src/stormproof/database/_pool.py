"""The pool: connections behind a first-come-first-served gate with a bounded wait."""

import asyncio
import math
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import AsyncAdaptedQueuePool, Dialect
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_

from stormproof._core.lifecycle import InFlight
from stormproof._core.origin import current_origin

from ._gate import Gate
from ._ledger import Checkout, Ledger
from ._replica_statistics import ReplicaStatistics

HELD = "stormproof.held"
"""Key in a record's `record_info`: the second gate that this checkout passed, if any."""


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """The pool at one moment.

    Attributes:
        size: Connections kept open (`pool_size`).
        in_use: Connections checked out now; at most `pool_size + max_overflow`.
        waiting: Callers waiting for a connection, or for SQLite's write lock, now.
        overflow: Connections open beyond `size` now.
        timeouts: Waits that ended without a connection, since the start.
        replicas: The numbers of each replica, which the others do not contain.
    """

    size: int
    in_use: int
    waiting: int
    overflow: int
    timeouts: int
    replicas: tuple[ReplicaStatistics, ...] = ()


ENDING = "stormproof.ending"
"""Key in a record's `record_info`: asks the connection for the future of its end, if it has one."""

Ending = asyncio.Future[Any] | None


_FRESH = 0.1
"""Seconds in the pool after which a connection is pinged before it is used again."""

BACK_AT = "stormproof.back_at"
"""Key in a record's `info`: when its connection came back, in loop time."""

urgent: ContextVar[bool] = ContextVar("stormproof_urgent", default=False)
"""Whether the reserve is for this work although no request waits for it."""


class GatedPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool behind a gate, so that the pool itself never has to wait.

    Its own wait has one length for all callers, is not first come first served (a newcomer may
    take the connection a waiter was woken for), and does not notice when a connect that failed
    made room.
    """

    # SQLAlchemy logs a pool under its class's module: who set levels for its pools means this one.
    __module__ = "sqlalchemy.pool.impl"

    gate: Gate
    ledger: Ledger
    ping: Dialect | None
    _is_retired = False

    def adopt(self, gate: Gate, ledger: Ledger, *, ping: Dialect | None) -> None:
        """Use `gate`, note each checkout in `ledger`, and test connections with `ping`."""
        self.gate, self.ledger, self.ping = gate, ledger, ping

    def recreate(self) -> "GatedPool":
        """Return an empty pool behind the same gate; called when the engine is disposed of."""
        successor = super().recreate()
        assert isinstance(successor, GatedPool)
        successor.adopt(self.gate, self.ledger, ping=self.ping)
        return successor

    def dispose(self) -> None:
        """Close idle connections now, and those in use when they come back."""
        self._is_retired = True
        super().dispose()

    def _do_get(self) -> ConnectionPoolEntry:
        for_us = self.gate.reserve == 0 or is_urgent()
        if not self.gate.try_acquire(is_urgent=for_us):
            self.ledger.sweep()
            await_(self.gate.acquire(is_urgent=for_us))
        try:
            record = super()._do_get()
        except BaseException:
            self.gate.release()
            raise
        self.ledger.take(record)
        try:
            if not self._is_alive(record):
                # So that none of those that were opened before this moment is used again.
                self._invalidate_time = time.time()
                record.invalidate()  # the caller gets a new connection in its place
        except BaseException:
            self.throw_away(record)
            raise
        return record

    def throw_away(self, record: ConnectionPoolEntry) -> None:
        """Give the place back without its connection."""
        try:
            record.invalidate()
        finally:
            # invalidate() waits for the connection's end. Cancelled again in that wait, the place
            # stayed taken, and the record kept the connection.
            cast(Any, record).dbapi_connection = None
            self._do_return_conn(record)

    def _is_alive(self, record: ConnectionPoolEntry) -> bool:
        """Whether an idle connection is open, and answers when it was left alone for a while.

        One that came back a moment ago is not pinged, where the driver knows without asking that
        the server closed it: asyncpg does, whose ping is three round trips, more than a small
        statement costs; psycopg does not.
        """
        adapted = record.dbapi_connection
        if adapted is None:
            return True  # it is not connected yet
        is_closed = getattr(record.driver_connection, "is_closed", None)
        if is_closed is not None and is_closed():
            return False
        ping = self.ping
        if ping is None or ping.name == "sqlite":  # which has nobody at the other end
            return True
        rest = asyncio.get_running_loop().time() - record.info.get(BACK_AT, -math.inf)
        if is_closed is not None and rest < _FRESH:
            return True
        try:
            ping.do_ping(adapted)
        except Exception as error:
            # What is no error of the database is one of the driver's, about its connection.
            if isinstance(error, ping.loaded_dbapi.Error) and not ping.is_disconnect(
                error, adapted, None
            ):
                raise
            return False
        return True

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        checkout = self.ledger.give_back(record)
        if self.ping is not None and record.dbapi_connection is not None:
            record.info[BACK_AT] = asyncio.get_running_loop().time()
        info, held, ending = record.record_info, None, None
        if info:  # on PostgreSQL it is empty now
            held = info.pop(HELD, None)
            ending = info.pop(ENDING, _has_no_ending)()
        try:
            if self._is_retired:
                record.close()
            else:
                super()._do_return_conn(record)
        finally:
            if ending is not None and not ending.done():
                self._give_back_after(ending, held, checkout)
            else:
                self._give_back(held)

    def _give_back(self, held: Gate | None) -> None:
        if held is not None:
            held.release()
        self.gate.release()

    def _give_back_after(
        self, ending: asyncio.Future[Any], held: Gate | None, checkout: Checkout | None
    ) -> None:
        # A connection that was cut ends behind its caller's back, and may hold SQLite's write lock
        # until then: with its place given to the next, 15 threads piled up behind a pool of 5.
        if checkout is not None:
            self.ledger.out[ending] = checkout

        def over(_: object) -> None:
            self.ledger.out.pop(ending, None)
            self._give_back(held)

        ending.add_done_callback(over)


def _has_no_ending() -> None:
    return None


def is_urgent() -> bool:
    """Whether a client waits for the first byte of an answer, or the work says so itself."""
    request = current_origin()
    if isinstance(request, InFlight) and request.status is None:
        return bool(request.scope["type"] == "http")  # a WebSocket lives as long as a stream
    return urgent.get()
