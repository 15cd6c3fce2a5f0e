"""The pooling: how the connections of each server are pooled, the database's and its replicas'."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from stormproof._core.events import Event, PoolWaitExpired

from ._engine import new_engine, new_lookout_engine
from ._gate import Gate
from ._ledger import Ledger


@dataclass(frozen=True, slots=True)
class Pooling:
    """Makes gates and engines; the arguments are those of `Database`, and where events go."""

    name: str
    size: int
    max_overflow: int
    max_wait: float
    reserve: int
    pre_ping: bool
    options: Mapping[str, Any]
    ledger: Ledger
    emit: Callable[[Event], None]

    def new_gate(self, where: str = "") -> Gate:
        """Return a gate for all connections of one server; `where` is for the message."""
        return self._new_gate(
            self.size + self.max_overflow,
            f"the connections of {self.name!r}{where}",
            "hold sessions for less time, enlarge the pool, or limit requests earlier",
            self.reserve,
        )

    def new_writers(self, place: str) -> Gate:
        """Return the gate of SQLite's one writer."""
        return self._new_gate(
            1,
            f"the one writer of SQLite at {place}",
            "write in shorter units of work, read with read_session(), or move to PostgreSQL",
        )

    def new_engine(self, url: URL, gate: Gate, writers: Gate) -> AsyncEngine:
        """Return an engine with a pool behind `gate`."""
        return new_engine(
            url,
            dict(self.options),
            pool_size=self.size,
            max_overflow=self.max_overflow,
            pre_ping=self.pre_ping,
            gate=gate,
            writers=writers,
            ledger=self.ledger,
        )

    def new_lookout_engine(self, url: URL) -> AsyncEngine:
        """Return an engine without a pool, for looks."""
        return new_lookout_engine(url, self.options)

    def _new_gate(self, capacity: int, what: str, advice: str, reserve: int = 0) -> Gate:
        return Gate(
            capacity,
            max_wait=self.max_wait,
            what=what,
            advice=advice,
            on_timeout=lambda waited: self.emit(PoolWaitExpired(waited, capacity)),
            reserve=reserve,
        )
