"""The open loop: requests arrive at a constant rate, whether or not the app keeps up."""

import asyncio
import math
from collections.abc import Sequence

from ._descriptors import allow_connections
from ._exchange import Exchange
from ._ledger import Ledger, LoadReport, percentile
from ._pool import Pool
from ._shot import Shot, in_turns
from ._sweep import Sweep

LATE = 0.05
"""Seconds: a generator whose 99th percentile of lateness is above this set the pace itself."""
LEAST_SHARE = 0.95

_MOST_AT_ONCE = 64
"""Sent in one go before the answers are looked at again."""


async def open_loop(
    port: int,
    shots: Sequence[Shot],
    *,
    rate: float,
    seconds: float,
    timeout: float,
    ledger: Ledger,
    group: str,
    connections: int = 1000,
) -> LoadReport:
    """Send `rate` requests per second for `seconds`, on keep-alive connections.

    Every request has an intended time on an even grid, and its latency counts from there. One
    that is not answered `timeout` seconds after it is given up, and its connection is closed.
    Waits until each has ended, so at most `seconds` + `timeout`. Cancelled, what is under way
    becomes `left`, and every connection is closed.

    Args:
        port: The server's, on 127.0.0.1.
        shots: What is sent, by weight.
        rate: Requests per second, above 0.
        seconds: For how long requests are sent.
        timeout: Seconds from the intended time until the client gives up.
        ledger: Gets a row for each.
        group: Which part they have in the attack.
        connections: Most at one time; `rate` x `timeout` are needed when nothing is answered.
            A request that finds none within half its timeout becomes `unsent`.

    Raises:
        ValueError: The rate is not above 0, or there is no shot with a weight above 0.
    """
    if rate <= 0:
        raise ValueError(f"a load needs a rate above 0, not {rate}")
    allow_connections(connections)
    loop = _OpenLoop(port, shots, timeout=timeout, ledger=ledger, group=group, most=connections)
    try:
        await loop.send(rate=rate, seconds=seconds)
        await loop.all_ended()
    finally:
        await loop.close()
    return loop.report(rate=rate, seconds=seconds)


class _OpenLoop:
    def __init__(
        self,
        port: int,
        shots: Sequence[Shot],
        *,
        timeout: float,
        ledger: Ledger,
        group: str,
        most: int,
    ) -> None:
        self._turns = in_turns(shots)
        self._timeout = timeout
        self._ledger = ledger
        self._group = group
        self._pool = Pool(port, ledger, most=most)
        self._sweep = Sweep(ledger, self._pool.expire)
        self._under_way = 0
        self._unsent = 0
        self._late: list[float] = []
        self._began_at = self._sending_ended_at = ledger.now()
        self._none_under_way: asyncio.Future[None] | None = None

    async def send(self, *, rate: float, seconds: float) -> None:
        """Send all of them, each as soon after its intended time as this process can."""
        total = max(1, math.ceil(rate * seconds))
        done = 0
        while done < total:
            passed = self._ledger.now() - self._began_at
            due = min(total, int(passed * rate) + 1, done + _MOST_AT_ONCE)
            while done < due:
                self._arrive(self._began_at + done / rate)
                done += 1
            if done < total:
                await asyncio.sleep(max(0.0, self._began_at + done / rate - self._ledger.now()))
        self._sending_ended_at = self._ledger.now()

    async def all_ended(self) -> None:
        """Wait until each has a row; the sweep sees to it that each gets one."""
        if self._under_way:
            self._none_under_way = asyncio.get_running_loop().create_future()
            await self._none_under_way

    async def close(self) -> None:
        """Close the connections."""
        self._sweep.stop()
        await self._pool.close()

    def report(self, *, rate: float, seconds: float) -> LoadReport:
        """Return how well the generator did."""
        took = max(seconds, self._sending_ended_at - self._began_at)
        late = percentile(self._late, 0.99)
        sent = (len(self._late) - self._unsent) / took
        is_bottleneck = sent < LEAST_SHARE * rate or late > LATE
        return LoadReport(
            wanted_rate=rate, sent_rate=sent, is_bottleneck=is_bottleneck, late_p99=late
        )

    def _arrive(self, intended_at: float) -> None:
        exchange = Exchange(
            self._ledger,
            next(self._turns),
            group=self._group,
            intended_at=intended_at,
            timeout=self._timeout,
            on_end=self._ended,
        )
        self._under_way += 1
        late = self._ledger.now() - intended_at
        if late >= self._timeout:
            exchange.end("unsent", note=f"the generator was {late:.1f} s late")
            return
        self._sweep.add(exchange)
        self._pool.carry(exchange)

    def _ended(self, exchange: Exchange) -> None:
        self._under_way -= 1
        is_unsent = exchange.row is not None and exchange.row.ended == "unsent"
        if is_unsent or exchange.dispatched_at is None:
            self._unsent += 1
            self._late.append(self._timeout)
        else:
            self._late.append(exchange.dispatched_at - exchange.intended_at)
        if not self._under_way and self._none_under_way and not self._none_under_way.done():
            self._none_under_way.set_result(None)
