"""Attempts: does a thing again while the store of a bus is away, and says so once."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from stormproof.errors import BusUnavailable, NotStarted

_log = logging.getLogger("stormproof")

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0

T = TypeVar("T")


class LinkLost(Exception):
    """There is no answer: the connection is gone, silent, or to a server that cannot serve now."""


class Attempts:
    """Repeats what meets `LinkLost`, with growing, jittered pauses, until it is done.

    Args:
        name: What errors and logs call the bus.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_lost = False
        self._limits: set[asyncio.Timeout] = set()

    async def until_done(self, do: Callable[[], Awaitable[T]], *, within: float) -> T:
        """Return what `do` returns.

        Waits at most `within` seconds. Cancelled or late: `do` is cancelled.

        Raises:
            BusUnavailable: The store was away all the time.
            NotStarted: `close` was called meanwhile.
        """
        why: Exception | None = None
        limit = asyncio.timeout(within)
        self._limits.add(limit)
        try:
            async with limit:
                for pause in _pauses():
                    try:
                        answer = await do()
                    except LinkLost as lost:
                        why = lost
                        self._tell_lost(lost)
                        await asyncio.sleep(pause)
                    else:
                        self._tell_back()
                        return answer
        except TimeoutError:
            if limit not in self._limits:
                raise NotStarted(
                    f"{self._name} was closed meanwhile; use it while the service runs"
                ) from None
        finally:
            self._limits.discard(limit)
        raise BusUnavailable(
            f"{self._name} did not answer within {within:.2f} s "
            f"({why or 'the connection is silent'}); try again later",
            retry_after=1.0,
        ) from why

    def close(self) -> None:
        """End what is under way. Idempotent; what is begun later is not touched."""
        limits, self._limits = self._limits, set()
        for limit in limits:
            if not limit.expired():
                limit.reschedule(0.0)

    def _tell_lost(self, lost: LinkLost) -> None:
        if not self._is_lost:
            self._is_lost = True
            _log.warning("%s: connection lost (%s); trying again", self._name, lost)

    def _tell_back(self) -> None:
        if self._is_lost:
            self._is_lost = False
            _log.warning("%s: connected again", self._name)


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1.5)
        pause = min(2 * pause, _LONGEST_PAUSE)
