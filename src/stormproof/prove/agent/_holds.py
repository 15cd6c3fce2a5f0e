"""Holds: who has a connection of an SQLAlchemy pool, since when, and how much of it stood idle."""

import re
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

from ._arrival import CURRENT, Arrival
from ._places import Line, Places, lines_from
from ._rate import Rate
from ._requests import Requests
from ._wire import Wire

_MOST_A_SECOND = 20
_WRITES = re.compile(
    r"\s*(?:/\*.*?\*/\s*)*(?:insert|update|delete|merge|replace|copy|truncate)\b"
    r"|\s*with\b.*\b(?:insert|update|delete|merge)\b",
    re.IGNORECASE | re.DOTALL,
)


class Hold:
    """One connection out of its pool, from the checkout to the checkin."""

    __slots__ = (
        "arrival", "began", "idle", "idle_since", "lines", "longest_idle", "pool", "record",
        "statements", "wrote", "wrote_now",
    )  # fmt: skip

    def __init__(self, pool: Any, record: int) -> None:
        self.pool = pool
        self.record = record
        self.arrival: Arrival | None = CURRENT.get()
        self.lines: list[Line] = []
        self.began = self.idle_since = time.monotonic()
        self.idle = self.longest_idle = 0.0
        self.statements = 0
        self.wrote = self.wrote_now = False

    def busy(self) -> None:
        """The driver has work from now on: the time since the last work was idle."""
        waited = time.monotonic() - self.idle_since
        self.idle += waited
        self.longest_idle = max(self.longest_idle, waited)
        self.idle_since = time.monotonic()

    def rest(self) -> None:
        """The driver is done."""
        self.idle_since = time.monotonic()


class Holds:
    """The connections that are out now, by connection record: cancelled checkouts do not count.

    Attributes:
        ours: Records that the agent itself has taken, to exhaust the pool.
    """

    def __init__(self, wire: Wire, requests: Requests) -> None:
        self.places = Places()
        self.engines: weakref.WeakSet[Any] = weakref.WeakSet()
        self._wire = wire
        self._requests = requests
        self.forked()

    def forked(self) -> None:
        """Begin anew in a child process."""
        self.ours: set[int] = set()
        self._out: dict[int, Hold] = {}
        self._numbers: dict[int, tuple[Any, int]] = {}
        self._rate = Rate(_MOST_A_SECOND)
        self._lock = threading.Lock()

    def of(self, connection: Any) -> Hold | None:
        """Return the hold of a pooled connection."""
        record = getattr(connection, "_connection_record", None)
        return None if record is None else self._out.get(id(record))

    def taken(self, pool: Any, record: Any) -> None:
        """A connection was checked out."""
        if id(record) in self.ours:
            return
        hold = Hold(pool, self._number(record))
        hold.lines = lines_from(sys._getframe(2))
        self._out[id(record)] = hold

    def given_back(self, record: Any, how: str) -> None:
        """A connection has come back, or is gone; only the first end of a hold counts."""
        hold = self._out.pop(id(record), None)
        if hold is None:
            return
        hold.busy()
        facts = self._facts(hold)
        if self._rate.allows(facts["route"]):
            facts["stack"] = self.places.own(hold.lines)
            self._wire.emit("hold", {**facts, "how": how})

    def facts(self) -> list[dict[str, Any]]:
        """Return what is out now."""
        found = []
        for hold in list(self._out.values()):
            facts = self._facts(hold)
            idle = max(0.0, time.monotonic() - hold.idle_since)
            found.append({**facts, "idle": hold.idle + idle, "stack": self.places.own(hold.lines)})
        return found

    def pools(self) -> list[dict[str, Any]]:
        """Return the pools of all engines; an unlimited overflow is -1, no limit at all None."""
        return [
            {
                "name": self.pool_name(engine.pool),
                "size": _asked(engine.pool, "size"),
                "overflow_max": getattr(engine.pool, "_max_overflow", None),
                "checked_out": _asked(engine.pool, "checkedout"),
                "url": engine.url.render_as_string(hide_password=True),
            }
            for engine in self.each_engine()
        ]

    def each_engine(self) -> Iterator[Any]:
        """Yield one engine for each pool."""
        seen = set()
        for engine in list(self.engines):
            if id(engine.pool) not in seen:
                seen.add(id(engine.pool))
                yield engine

    def pool_name(self, pool: Any) -> str:
        """Return the pool's own name, or what its engine leads to."""
        if getattr(pool, "logging_name", None):
            return str(pool.logging_name)
        for engine in list(self.engines):
            if engine.pool is pool:
                url = engine.url
                place = f"{url.host or ''}{':' + str(url.port) if url.port else ''}"
                return f"{url.get_backend_name()} {place}/{url.database or ''}"
        return type(pool).__name__

    def _facts(self, hold: Hold) -> dict[str, Any]:
        arrival = hold.arrival
        return {
            "pool": self.pool_name(hold.pool),
            "record": hold.record,
            "route": None if arrival is None else self._requests.name(arrival),
            "id": None if arrival is None else arrival.id,
            "held": time.monotonic() - hold.began,
            "idle": hold.idle,
            "longest_idle": hold.longest_idle,
            "statements": hold.statements,
            "wrote": hold.wrote,
        }

    def _number(self, record: Any) -> int:
        with self._lock:
            known = self._numbers.get(id(record))
            if known is not None and known[0]() is record:
                return known[1]
            self._numbers[id(record)] = (weakref.ref(record), len(self._numbers) + 1)
            return len(self._numbers)


def patch_sqlalchemy(sqlalchemy: Any, holds: Holds) -> None:
    """Listen to all pools and engines, also those of subclasses and those that exist already."""
    _remember_engines(sqlalchemy, holds)
    _listen_to_pools(sqlalchemy, holds)
    _listen_to_statements(sqlalchemy, holds)
    _time_ends(sqlalchemy.engine.Connection, holds)


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


def _asked(pool: Any, name: str) -> int | None:
    method = getattr(pool, name, None)
    return int(method()) if callable(method) else None
