"""Holds: who has a connection of an SQLAlchemy pool, since when, and how much of it stood idle."""

import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

from ._arrival import CURRENT, IS_OURS, Arrival
from ._places import Line, lines_from
from ._rate import Rate
from ._requests import Requests
from ._wire import Wire

_MOST_A_SECOND = 20


class Hold:
    """One connection out of its pool, from the checkout to the checkin.

    Attributes:
        where: Stands for the route in all that is counted by route.
        lines: Of this checkout, or of another on the same route in the same second.
        idle_since: When the driver was done last.
        is_being_reset: Whether the pool's own ROLLBACK at the end has begun.
        wrote_now: Whether the transaction that is open has written.
    """

    __slots__ = (
        "arrival", "began", "idle", "idle_since", "is_being_reset", "lines", "longest_idle", "pool",
        "record",
        "statements", "where", "wrote", "wrote_now",
    )  # fmt: skip

    def __init__(self, pool: Any, record: int) -> None:
        self.pool = pool
        self.record = record
        self.arrival: Arrival | None = CURRENT.get()
        self.lines: list[Line] = []
        scope = None if self.arrival is None else self.arrival.scope
        self.where = None if scope is None else id(scope.get("route"))
        self.began = self.idle_since = time.monotonic()
        self.idle = self.longest_idle = 0.0
        self.statements = 0
        self.wrote = self.wrote_now = self.is_being_reset = False

    def busy(self) -> None:
        """The driver has work from now on: the time since the last work was idle."""
        now = time.monotonic()
        waited = now - self.idle_since
        self.idle += waited
        if waited > self.longest_idle:
            self.longest_idle = waited
        self.idle_since = now

    def rest(self) -> None:
        """The driver is done."""
        self.idle_since = time.monotonic()


class Holds:
    """The connections that are out now, by connection record: cancelled checkouts do not count."""

    def __init__(self, wire: Wire, requests: Requests) -> None:
        self.engines: weakref.WeakSet[Any] = weakref.WeakSet()
        self._wire = wire
        self._requests = requests
        self.forked()

    def forked(self) -> None:
        """Begin anew in a child process."""
        self._out: dict[int, Hold] = {}
        self._numbers: dict[int, tuple[Any, int]] = {}
        self._last = 0
        self._names: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._lines: dict[int | None, list[Line]] = {}
        self._rate = Rate(_MOST_A_SECOND)
        self._stacks = Rate(_MOST_A_SECOND)
        self._lock = threading.Lock()

    def of(self, connection: Any) -> Hold | None:
        """Return the hold of a pooled connection."""
        record = getattr(connection, "_connection_record", None)
        return None if record is None else self._out.get(id(record))

    def taken(self, pool: Any, record: Any) -> None:
        """A connection was checked out."""
        if IS_OURS.get():
            return
        hold = Hold(pool, self._number(record))
        # A walk over some 60 frames costs more than the rest of the agent, so not at each checkout.
        if self._stacks.allows(hold.where):
            self._lines[hold.where] = lines_from(sys._getframe(2))
        hold.lines = self._lines.get(hold.where, [])
        self._out[id(record)] = hold

    def reset(self, record: Any) -> None:
        """The pool rolls back what may be open; that is work of the driver."""
        hold = self._out.get(id(record))
        if hold is not None:
            hold.busy()
            hold.is_being_reset = True

    def given_back(self, record: Any, how: str) -> None:
        """A connection has come back, or is gone; only the first end of a hold counts."""
        hold = self._out.pop(id(record), None)
        if hold is None:
            return
        if not hold.is_being_reset:
            hold.busy()
        if self._rate.allows(hold.where):
            facts = self._facts(hold)
            facts["stack"] = self._requests.places.own(hold.lines)
            self._wire.emit("hold", {**facts, "how": how})

    def timed_out(self, pool: Any, waited: float) -> None:
        """A wait for a connection of this pool ended without one."""
        route, number = self._requests.where()
        if not IS_OURS.get() and self._rate.allows(("timeout", route)):
            name = self.pool_name(pool)
            facts = {"pool": name, "route": route, "id": number, "waited": waited}
            self._wire.emit("pool-timeout", facts)

    def facts(self) -> list[dict[str, Any]]:
        """Return what is out now."""
        found = []
        for hold in list(self._out.values()):
            facts = self._facts(hold)
            idle = max(0.0, time.monotonic() - hold.idle_since)
            found.append(
                {**facts, "idle": hold.idle + idle, "stack": self._requests.places.own(hold.lines)}
            )
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
        known = self._names.get(pool)
        if known is None:
            known = self._names[pool] = self._name_of(pool)
        return known

    def _name_of(self, pool: Any) -> str:
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
            self._last += 1
            self._numbers[id(record)] = (weakref.ref(record), self._last)
            return self._last


def _asked(pool: Any, name: str) -> int | None:
    method = getattr(pool, name, None)
    return int(method()) if callable(method) else None
