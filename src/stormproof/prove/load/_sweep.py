"""The sweep: time-outs of thousands of exchanges with one timer, because their order is known."""

import asyncio
from collections import deque
from collections.abc import Callable

from ._exchange import Exchange
from ._ledger import Ledger


class Sweep:
    """Calls `expire` for each exchange that has no row at its deadline.

    Exchanges are added in the order of their deadlines: all of a load have the same timeout.
    """

    def __init__(self, ledger: Ledger, expire: Callable[[Exchange], None]) -> None:
        self._ledger = ledger
        self._expire = expire
        self._waiting: deque[Exchange] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, exchange: Exchange) -> None:
        """Watch one more."""
        self._waiting.append(exchange)
        if self._timer is None:
            self._arm()

    def stop(self) -> None:
        """Watch no longer."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        delay = self._waiting[0].deadline - self._ledger.now()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, delay), self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self._ledger.now()
        waiting = self._waiting
        while waiting and (waiting[0].row is not None or waiting[0].deadline <= now):
            exchange = waiting.popleft()
            if exchange.row is None:
                self._expire(exchange)
        if waiting and self._timer is None:
            self._arm()
