"""The pool: connections behind a first-come-first-served gate with a bounded wait."""

import asyncio
from dataclasses import dataclass
from typing import Any

from sqlalchemy import AsyncAdaptedQueuePool
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_

from ._gate import Gate

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
    """

    size: int
    in_use: int
    waiting: int
    overflow: int
    timeouts: int


ENDING = "stormproof.ending"
"""Key in a record's `record_info`: asks the connection for the future of its end, if it has one."""

Ending = asyncio.Future[Any] | None


@dataclass(frozen=True, slots=True)
class Checkout:
    """Who took a connection and when (loop time, seconds)."""

    at: float
    task: str


class GatedPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool behind a gate, so that the pool itself never has to wait.

    Its own wait has one length for all callers, is not first come first served (a newcomer may
    take the connection a waiter was woken for), and does not notice when a connect that failed
    made room.
    """

    # SQLAlchemy logs a pool under its class's module: who set levels for its pools means this one.
    __module__ = "sqlalchemy.pool.impl"

    gate: Gate
    out: dict[object, Checkout]
    _is_retired = False

    def adopt(self, gate: Gate, out: dict[object, Checkout]) -> None:
        """Use `gate`, and note each checkout in `out`."""
        self.gate, self.out = gate, out

    def recreate(self) -> "GatedPool":
        """Return an empty pool behind the same gate; called when the engine is disposed of."""
        successor = super().recreate()
        assert isinstance(successor, GatedPool)
        successor.adopt(self.gate, self.out)
        return successor

    def dispose(self) -> None:
        """Close idle connections now, and those in use when they come back."""
        self._is_retired = True
        super().dispose()

    def _do_get(self) -> ConnectionPoolEntry:
        await_(self.gate.acquire())
        try:
            record = super()._do_get()
        except BaseException:
            self.gate.release()
            raise
        task = asyncio.current_task()
        name = task.get_name() if task is not None else "no task"
        self.out[record] = Checkout(asyncio.get_running_loop().time(), name)
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        checkout = self.out.pop(record, None)
        info = record.record_info or {}
        held: Gate | None = info.pop(HELD, None)
        ending: Ending = info.pop(ENDING, lambda: None)()
        try:
            if self._is_retired:
                record.close()
            else:
                super()._do_return_conn(record)
        finally:
            gates = [self.gate] if held is None else [held, self.gate]
            if ending is None or ending.done():
                _give_back(gates)
            else:
                self._give_back_after(ending, gates, checkout)

    def _give_back_after(
        self, ending: asyncio.Future[Any], gates: list[Gate], checkout: Checkout | None
    ) -> None:
        # A connection that was cut ends behind its caller's back, and may hold SQLite's write lock
        # until then: with its place given to the next, 15 threads piled up behind a pool of 5.
        if checkout is not None:
            self.out[ending] = checkout

        def over(_: object) -> None:
            self.out.pop(ending, None)
            _give_back(gates)

        ending.add_done_callback(over)


def _give_back(gates: list[Gate]) -> None:
    for gate in gates:
        gate.release()
