"""The closed loop: callers who each wait for an answer before they ask again."""

import asyncio
import time
from collections.abc import Sequence

from ._ask import closed, ended, opened_for
from ._connection import Connection
from ._descriptors import allow_connections
from ._exchange import Exchange
from ._ledger import Ledger, LoadReport, percentile
from ._open_loop import LATE
from ._shot import Shot, in_turns

_PAUSE_AFTER_FAILURE = 0.05
_TICK = 0.02
_MOST_CPU = 0.95


async def closed_loop(
    port: int,
    shots: Sequence[Shot],
    *,
    callers: int,
    seconds: float,
    timeout: float,
    ledger: Ledger,
    group: str,
    keep_alive: bool = True,
    until: asyncio.Event | None = None,
    pause: float = 0.0,
) -> LoadReport:
    """Let `callers` send one request after another for `seconds`, or until `until` is set.

    A caller whose connection is refused, reset or closed opens a new one for its next request;
    after a failure it pauses for 50 ms. Requests under way at the end are waited for, at most
    `timeout` seconds. Cancelled, they become `left`, and every connection is closed.

    Args:
        port: The server's, on 127.0.0.1.
        shots: What is sent, by weight.
        callers: How many at once.
        seconds: For how long requests are sent.
        timeout: Seconds from the sending (connecting included) until the caller gives up.
        ledger: Gets a row for each.
        group: Which part they have in the attack.
        keep_alive: Use a connection again; otherwise each request asks for its end.
        until: Ends the sending early.
        pause: Seconds between an answer and the next request of a caller.
    """
    allow_connections(callers)
    loop = _ClosedLoop(
        port, shots, timeout=timeout, ledger=ledger, group=group, keep_alive=keep_alive
    )
    watch = _Watch()
    began_at = ledger.now()
    try:
        async with asyncio.TaskGroup() as group_of_callers:
            for _ in range(callers):
                group_of_callers.create_task(
                    loop.caller(until=until, end_at=began_at + seconds, pause=pause)
                )
    finally:
        cpu_share = watch.stop()
    rate = loop.sent / max(ledger.now() - began_at, 1e-9)
    late = percentile(watch.late, 0.99)
    return LoadReport(
        wanted_rate=rate,
        sent_rate=rate,
        is_bottleneck=late > LATE or cpu_share > _MOST_CPU,
        late_p99=late,
    )


class _ClosedLoop:
    def __init__(
        self,
        port: int,
        shots: Sequence[Shot],
        *,
        timeout: float,
        ledger: Ledger,
        group: str,
        keep_alive: bool,
    ) -> None:
        self.sent = 0
        self._port = port
        self._turns = in_turns(shots)
        self._timeout = timeout
        self._ledger = ledger
        self._group = group
        self._keep_alive = keep_alive

    async def caller(self, *, until: asyncio.Event | None, end_at: float, pause: float) -> None:
        """Ask one request after another."""
        connection: Connection | None = None
        try:
            while self._ledger.now() < end_at and not (until and until.is_set()):
                exchange = Exchange(
                    self._ledger,
                    next(self._turns),
                    group=self._group,
                    intended_at=self._ledger.now(),
                    timeout=self._timeout,
                )
                if connection is not None and not connection.is_idle:
                    await closed(connection)
                    connection = None
                connection = connection or await opened_for(exchange, self._port)
                if connection is not None:
                    connection.send(exchange, close=not self._keep_alive)
                    await ended(exchange, connection)
                self.sent += exchange.sent_at is not None
                is_good = exchange.row is not None and exchange.row.ended == "complete"
                await self._rest(pause if is_good else max(pause, _PAUSE_AFTER_FAILURE), until)
        finally:
            if connection is not None:
                await closed(connection)

    async def _rest(self, seconds: float, until: asyncio.Event | None) -> None:
        if seconds <= 0:
            return
        if until is None:
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await until.wait()
        except TimeoutError:
            pass


class _Watch:
    """Notes how late a timer of this loop fires, and how much of a core this process uses."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self._began_at = time.monotonic()
        self._cpu_before = time.process_time()
        self._timer = self._next()

    def stop(self) -> float:
        """Stop, and return the share of one core that was used."""
        self._timer.cancel()
        took = time.monotonic() - self._began_at
        return (time.process_time() - self._cpu_before) / max(took, 1e-9)

    def _next(self) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        return loop.call_later(_TICK, self._tick, loop.time() + _TICK)

    def _tick(self, wanted_at: float) -> None:
        self.late.append(max(0.0, asyncio.get_running_loop().time() - wanted_at))
        self._timer = self._next()
