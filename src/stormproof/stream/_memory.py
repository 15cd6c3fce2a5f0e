"""`MemoryBus`: the bus of a hub whose publishers and subscribers are in one process."""

import asyncio
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from stormproof._arguments import check_count

from ._bus import Entry, HistoryLost, Position


class MemoryBus:
    """A bounded log in this process; it begins empty, with a new epoch, at each start.

    Subscribers of other workers and processes do not see what is published here; for those
    there are the buses on Redis and PostgreSQL.

    Args:
        keep: How many events can be read again; older ones are dropped.

    Raises:
        InvalidSetting: `keep` is not 1 or more.

    versionadded: 0.1
    """

    def __init__(self, *, keep: int = 1000) -> None:
        check_count("MemoryBus", keep=keep)
        self._epoch = secrets.token_hex(4)
        self._last = 0
        self._entries: deque[Entry] = deque(maxlen=keep)
        self._readers: set[asyncio.Future[None]] = set()

    async def append(self, entry: Entry) -> Position:
        """Append `entry` and wake the readers; waits for nothing."""
        self._last += 1
        self._entries.append(replace(entry, offset=self._last))
        readers, self._readers = self._readers, set()
        for reader in readers:
            if not reader.done():
                reader.set_result(None)
        return Position(self._epoch, self._last)

    async def read(self, after: Position, *, limit: int, wait: float) -> Sequence[Entry]:
        """Return what `Bus.read` promises; cancelled while it waits, nothing is left behind."""
        entries = self._after(after, limit)
        if not entries and wait > 0:
            await self._wait(wait)
            entries = self._after(after, limit)
        return entries

    async def tail(self) -> Position:
        """Return the position of the newest entry."""
        return Position(self._epoch, self._last)

    async def close(self) -> None:
        """End the reads that wait; the log stays."""
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)

    def _after(self, after: Position, limit: int) -> list[Entry]:
        first = self._last - len(self._entries) + 1
        if after.epoch != self._epoch or after.offset < first - 1:
            raise HistoryLost(f"{after} is not in this log, which has {first} to {self._last}")
        skipped = after.offset + 1 - first
        return list(islice(self._entries, skipped, skipped + limit))

    async def _wait(self, seconds: float) -> None:
        reader = asyncio.get_running_loop().create_future()
        self._readers.add(reader)
        try:
            async with asyncio.timeout(seconds):
                await reader
        except TimeoutError:
            if not reader.cancelled():
                raise
        finally:
            self._readers.discard(reader)
