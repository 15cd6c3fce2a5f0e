"""How late the load generator itself is, so that its slowness is not taken for the app's."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

_TICK = 0.02


class Lag:
    """Notes how late a timer of this loop fires."""

    def __init__(self) -> None:
        self._late: list[float] = [0.0]
        self._timer: asyncio.TimerHandle | None = None

    @property
    def p99(self) -> float:
        """The 99th percentile so far, seconds."""
        return sorted(self._late)[int(0.99 * len(self._late))]

    def start(self) -> None:
        """Begin to note."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_TICK, self._tick, loop.time() + _TICK)

    def stop(self) -> None:
        """Stop; what was noted stays."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self, wanted_at: float) -> None:
        self._late.append(max(0.0, asyncio.get_running_loop().time() - wanted_at))
        self.start()


@contextmanager
def watched_lag() -> Iterator[Lag]:
    """Watch the running loop inside the block."""
    lag = Lag()
    lag.start()
    try:
        yield lag
    finally:
        lag.stop()
