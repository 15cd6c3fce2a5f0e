"""The pool: keep-alive connections of an open loop, which opens a new one when none is idle."""

import asyncio
from collections import deque

from ._connection import Connection, connect, refusal
from ._exchange import Exchange
from ._ledger import Ledger


class Pool:
    """At most `most` connections to one port.

    A request that finds none idle has one opened for it. When `most` are open it waits for one,
    at most for half its time: sent later, it would be a request whose client leaves at once.
    """

    def __init__(self, port: int, ledger: Ledger, *, most: int) -> None:
        self._port = port
        self._ledger = ledger
        self._most = most
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._dialled_for: deque[Exchange] = deque()
        self._queued: deque[Exchange] = deque()

    def carry(self, exchange: Exchange) -> None:
        """Send it on the connection that was idle for the shortest time, or on a new one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_idle:
                self._send(connection, exchange)
                return
        self._queued.append(exchange)
        self._dial()

    def expire(self, exchange: Exchange) -> None:
        """End an exchange whose time is over; one under way takes its connection with it."""
        if exchange.abandon is not None:
            exchange.abandon("timeout", "")
        elif exchange.dispatched_at is not None:
            exchange.end("timeout", note="the connection was not accepted")
        else:
            self._end_unsent(exchange)

    async def close(self) -> None:
        """Close all, and wait until every socket is given back; what was under way is `left`."""
        for exchange in (*self._dialled_for, *self._queued):
            exchange.end("unsent", note="the load was stopped")
        self._queued.clear()
        for task in self._connecting:
            task.cancel()
        for connection in tuple(self._open):
            connection.end("left")
        if pending := {*self._connecting, *(connection.gone for connection in self._open)}:
            await asyncio.wait(pending)

    def _send(self, connection: Connection, exchange: Exchange) -> None:
        if exchange.dispatched_at is None:
            exchange.dispatched_at = self._ledger.now()
        connection.send(exchange)

    def _dial(self) -> None:
        """Open a connection for each that waits, as far as there is room."""
        while self._queued and len(self._open) + len(self._connecting) < self._most:
            exchange = self._queued.popleft()
            if exchange.row is None and not self._is_too_late(exchange):
                exchange.dispatched_at = self._ledger.now()
                self._dialled_for.append(exchange)
                task = asyncio.get_running_loop().create_task(self._connect())
                self._connecting.add(task)
                task.add_done_callback(self._connected)

    async def _connect(self) -> None:
        try:
            connection = await connect(self._port, self._ledger)
        except OSError as error:
            if (exchange := _next(self._dialled_for)) is not None:
                exchange.end(refusal(error), note=str(error))
            return
        if not connection.gone.done():
            self._open.add(connection)
        connection.on_free = self._freed
        connection.on_lost = self._lost
        self._freed(connection)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        if not task.cancelled():
            task.result()
            self._dial()

    def _freed(self, connection: Connection) -> None:
        if (exchange := _next(self._dialled_for)) is not None:
            self._send(connection, exchange)
            return
        while (exchange := _next(self._queued)) is not None:
            if not self._is_too_late(exchange):
                self._send(connection, exchange)
                return
        self._idle.append(connection)

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._dial()

    def _is_too_late(self, exchange: Exchange) -> bool:
        now = self._ledger.now()
        if now - exchange.intended_at <= exchange.deadline - now:
            return False
        self._end_unsent(exchange)
        return True

    def _end_unsent(self, exchange: Exchange) -> None:
        exchange.end("unsent", note=f"all {self._most} connections were busy")


def _next(waiting: deque[Exchange]) -> Exchange | None:
    while waiting:
        exchange = waiting.popleft()
        if exchange.row is None:
            return exchange
    return None
