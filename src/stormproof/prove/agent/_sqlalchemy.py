"""SQLAlchemy: what the agent hangs on its pools, engines and connections."""

import re
import time
from typing import Any

from ._holds import Holds

_WRITES = re.compile(
    r"\s*(?:/\*.*?\*/\s*)*(?:insert|update|delete|merge|replace|copy|truncate)\b"
    r"|\s*with\b.*\b(?:insert|update|delete|merge)\b",
    re.IGNORECASE | re.DOTALL,
)


def patch_sqlalchemy(sqlalchemy: Any, holds: Holds) -> None:
    """Listen to all pools and engines, also those of subclasses and those that exist already."""
    _remember_engines(sqlalchemy, holds)
    _listen_to_pools(sqlalchemy, holds)
    _listen_to_statements(sqlalchemy, holds)
    _time_ends(sqlalchemy.engine.Connection, holds)
    _time_fetches(sqlalchemy.engine.cursor.CursorFetchStrategy, holds)
    _tell_timeouts(sqlalchemy, holds)


def _remember_engines(sqlalchemy: Any, holds: Holds) -> None:
    make = sqlalchemy.engine.Engine.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        holds.engines.add(self)

    sqlalchemy.engine.Engine.__init__ = init


def _listen_to_pools(sqlalchemy: Any, holds: Holds) -> None:
    def checkout(_: Any, record: Any, connection: Any) -> None:
        holds.taken(connection._pool, record)

    def invalidated(_: Any, record: Any, error: Any) -> None:
        holds.given_back(record, "invalidate")

    listen, pool = sqlalchemy.event.listen, sqlalchemy.pool.Pool
    listen(pool, "checkout", checkout)
    listen(pool, "invalidate", invalidated)
    listen(pool, "reset", lambda _, record, state: holds.reset(record))
    for name in ("checkin", "close", "detach"):
        listen(pool, name, lambda _, record, how=name: holds.given_back(record, how))


def _listen_to_statements(sqlalchemy: Any, holds: Holds) -> None:
    def before(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        hold = holds.of(_pooled(connection))
        if hold is None:
            return
        hold.busy()
        hold.statements += 1
        if not hold.wrote_now and is_write(statement, context):
            hold.wrote = hold.wrote_now = True

    def after(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        hold = holds.of(_pooled(connection))
        if hold is not None:
            hold.rest()

    def failed(context: Any) -> None:
        hold = None if context.connection is None else holds.of(_pooled(context.connection))
        if hold is not None:
            hold.rest()

    listen, engine = sqlalchemy.event.listen, sqlalchemy.engine.Engine
    listen(engine, "before_cursor_execute", before)
    listen(engine, "after_cursor_execute", after)
    listen(engine, "handle_error", failed)


def _time_ends(connection_class: Any, holds: Holds) -> None:
    """Count COMMIT and ROLLBACK as work of the driver; each ends what was written so far."""
    for name in ("_commit_impl", "_rollback_impl"):
        _time_end(connection_class, name, holds)


def _time_fetches(strategy_class: Any, holds: Holds) -> None:
    """Count the fetching of all rows as work of the driver: SQLite computes them only then."""
    original = strategy_class.fetchall

    def fetchall(self: Any, result: Any, cursor: Any) -> Any:
        hold = holds.of(_pooled(getattr(result, "connection", None)))
        if hold is None:
            return original(self, result, cursor)
        hold.busy()
        try:
            return original(self, result, cursor)
        finally:
            hold.rest()

    strategy_class.fetchall = fetchall


def _tell_timeouts(sqlalchemy: Any, holds: Holds) -> None:
    """Report a wait for a connection that ended without one; every pool passes here."""
    record_class = sqlalchemy.pool.base._ConnectionRecord
    original = record_class.checkout.__func__
    too_late = sqlalchemy.exc.TimeoutError

    def checkout(cls: Any, pool: Any) -> Any:
        began = time.monotonic()
        try:
            return original(cls, pool)
        except Exception as error:
            # stormproof's own pool waits at a gate of its own and raises an error of its own.
            if isinstance(error, too_late) or type(error).__name__ == "PoolTimeout":
                holds.timed_out(pool, time.monotonic() - began)
            raise

    record_class.checkout = classmethod(checkout)


def _time_end(connection_class: Any, name: str, holds: Holds) -> None:
    original = getattr(connection_class, name)

    def timed(self: Any) -> Any:
        hold = holds.of(_pooled(self))
        if hold is None:
            return original(self)
        hold.busy()
        try:
            return original(self)
        finally:
            hold.rest()
            hold.wrote_now = False

    setattr(connection_class, name, timed)


def is_write(statement: str, context: Any) -> bool:
    """Whether a statement changes rows: what SQLAlchemy has compiled says so, or its text."""
    if getattr(context, "compiled", None) is not None:
        if context.isinsert or context.isupdate or context.isdelete:
            return True
        if not getattr(context, "is_text", False):
            return False
    return _WRITES.match(statement) is not None


def _pooled(connection: Any) -> Any:
    # The attribute, not the property: that one would reconnect, or raise, where nothing is held.
    return getattr(connection, "_dbapi_connection", None)
