"""The engine of reads: a replica's connections while one may be used, else the primary's."""

import asyncio
from typing import Any, cast

from sqlalchemy import Pool, event
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from stormproof.errors import DatabaseUnavailable

from ._faults import first_line, is_connection_lost, unavailable
from ._replica import Replica
from ._replicas import Replicas

_REPLICA = "stormproof.replica"
"""Key in a record's `record_info`: the replica whose connection it is."""


class _ReadPool(Pool):
    """Hands out the connections of other pools; each goes back to where it came from."""

    _is_asyncio = True

    def __init__(self, primary: Engine, replicas: Replicas) -> None:
        super().__init__(_no_connection, dialect=primary.dialect)
        self._primary = primary
        self._replicas = replicas

    def _do_get(self) -> ConnectionPoolEntry:
        for replica in self._replicas.usable():
            try:
                return _taken_from(replica)
            except DatabaseUnavailable as error:
                # Nothing was read yet: the caller gets another server, and knows nothing of it.
                _fail(replica, error.message)
        return self._primary.pool._do_get()

    def _invalidate(self, connection: Any, *args: Any, **keywords: Any) -> None:
        replica = _replica_of(connection)
        pool = self._primary.pool if replica is None else replica.pool
        pool._invalidate(connection, *args, **keywords)

    def status(self) -> str:
        """Say where connections come from."""
        return "connections of the replicas, or of the primary"


class _ReadEngine(OptionEngine):
    """The primary's engine, with its events and its cache, on another pool."""

    pool: Pool = None  # type: ignore[assignment]  # set for each instance, in place of a property


def new_read_engine(primary: AsyncEngine, replicas: Replicas) -> AsyncEngine:
    """Return an engine whose connections are those of `replicas`, or of `primary`."""
    proxied = primary.sync_engine
    engine = _ReadEngine(proxied, {})
    engine.pool = _ReadPool(proxied, replicas)

    @event.listens_for(proxied, "handle_error")
    def failed(context: ExceptionContext) -> Exception | None:
        connection = context.connection
        # No statement: a ROLLBACK that fails on what a cancellation left says nothing of the
        # server, and what a COMMIT's end means is told by the session.
        if context.statement is None or connection is None or connection.invalidated:
            return None
        replica = _replica_of(connection.connection)
        error = context.sqlalchemy_exception or context.original_exception
        if replica is None or not is_connection_lost(error):
            return None
        _fail(replica, f"a statement lost it ({first_line(error)})")
        return unavailable(replica.place, error)

    return AsyncEngine(engine)


def _fail(replica: Replica, why: str) -> None:
    replica.fail(why, asyncio.get_running_loop().time())


def _taken_from(replica: Replica) -> ConnectionPoolEntry:
    record = replica.pool._do_get()
    try:
        cast(Any, record).get_connection()  # connects, where it is not yet
    except BaseException:
        replica.pool.throw_away(record)
        raise
    assert record.record_info is not None
    record.record_info[_REPLICA] = replica
    replica.reads += 1
    return record


def _replica_of(connection: Any) -> Replica | None:
    info = connection.record_info
    found: Replica | None = None if info is None else info.get(_REPLICA)
    return found


def _no_connection() -> Any:
    raise AssertionError("the pool of reads makes no connections")
