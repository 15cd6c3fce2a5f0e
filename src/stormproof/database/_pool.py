"""The pool: connections behind a first-come-first-served gate with a bounded wait."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import AsyncAdaptedQueuePool
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_

from stormproof._core.deadline import bounded, remaining
from stormproof.errors import DeadlineExceeded, PoolTimeout

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


class Gate:
    """Lets `capacity` callers in at once; the others wait in the order they came.

    Args:
        capacity: How many may be inside.
        max_wait: Longest wait in seconds; the deadline in force shortens it.
        what: What is waited for, in words, for the message.
        advice: The way out, in words, for the message.
        on_timeout: Called with the seconds waited when a wait ended without a place.
    """

    def __init__(
        self,
        capacity: int,
        *,
        max_wait: float,
        what: str,
        advice: str,
        on_timeout: Callable[[float], None],
    ) -> None:
        self.capacity = capacity
        self.max_wait = max_wait
        self.in_use = 0
        self.released = 0
        self.timeouts = 0
        self.emptied = asyncio.Event()
        self.emptied.set()
        self._what = what
        self._advice = advice
        self._on_timeout = on_timeout
        # Ordered so that both the next waiter and one that gives up are found in O(1).
        self._waiters: OrderedDict[asyncio.Future[bool], None] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many callers wait now."""
        return len(self._waiters)

    async def acquire(self) -> None:
        """Wait for a place, at most `max_wait` seconds and never past the deadline.

        Cancelled while waiting: no place is held.

        Raises:
            PoolTimeout: No place came free within `max_wait`.
            DeadlineExceeded: The deadline passed first.
        """
        if self.in_use < self.capacity:
            self.in_use += 1
            self.emptied.clear()
            return
        wait = bounded(self.max_wait)
        began_at = asyncio.get_running_loop().time()
        if wait > 0 and await self._handed_over(wait):
            return
        self._refuse(wait, asyncio.get_running_loop().time() - began_at)

    def release(self) -> None:
        """Hand the place to the caller who has waited longest, or leave it free."""
        self.released += 1
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():  # done: cancelled in this very tick
                waiter.set_result(True)
                return
        self.in_use -= 1
        if self.in_use == 0:
            self.emptied.set()

    async def _handed_over(self, wait: float) -> bool:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiters[waiter] = None
        timer = loop.call_later(wait, self._expire, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if self._waiters.pop(waiter, self) is self and _was_handed(waiter):
                self.release()  # the place arrived in the same tick as the cancellation
            raise
        finally:
            timer.cancel()

    def _expire(self, waiter: asyncio.Future[bool]) -> None:
        if self._waiters.pop(waiter, self) is None and not waiter.done():
            waiter.set_result(False)

    def count_timeout(self, waited: float) -> None:
        """Count a wait of `waited` seconds that ended without a place."""
        self.timeouts += 1
        self._on_timeout(waited)

    def _refuse(self, wait: float, waited: float) -> None:
        self.count_timeout(waited)
        left = remaining()
        facts = f"{self._what}: {self.in_use} of {self.capacity} in use, waited {waited:.2f} s"
        if wait < self.max_wait and left is not None and left <= wait:
            raise DeadlineExceeded(f"the deadline passed while waiting for {facts}")
        raise PoolTimeout(
            f"no place came free for {facts}, {self.waiting} more waiting; {self._advice}",
            retry_after=1,
        )


def _was_handed(waiter: asyncio.Future[bool]) -> bool:
    return waiter.done() and not waiter.cancelled() and waiter.result()


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
