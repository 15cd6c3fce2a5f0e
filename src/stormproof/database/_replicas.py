"""The replicas of a database: which of them a read may go to, looked at in the background."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from sqlalchemy import URL

from stormproof._core.events import ReplicaRegained, ReplicaSkipped

from ._faults import first_line
from ._lookout import IS_UP, PRIMARY, STANDBY, Lookout
from ._pooling import Pooling
from ._replica import Mark, Replica
from ._replica_statistics import ReplicaStatistics
from ._settings import place, replica_urls

_log = logging.getLogger("stormproof")

_LOOK_EVERY = 1.0
_LOOKS = 4
"""Looks within `max_lag`, so that one that is late does not move all reads to the primary."""


class Replicas:
    """Looks at each replica in the background, and says where a read may go.

    How far a replica is behind is not asked of it: a standby that is cut off from its primary
    does not know. The primary is asked how far its log is, then each replica how far it has
    replayed; what the primary had written when it was asked, and a replica has, was at most so
    long ago. So the figure is a bound, it grows between two looks, and needs no common clock.

    Args:
        members: The replicas.
        primary: Asks the primary how far it is; None when that is not needed.
        max_lag: Seconds a replica may be behind, None for any.
    """

    def __init__(
        self, members: Sequence[Replica], primary: Lookout | None, *, max_lag: float | None
    ) -> None:
        self._members = tuple(members)
        self._primary = primary
        self._period = _LOOK_EVERY if max_lag is None else min(_LOOK_EVERY, max_lag / _LOOKS)
        self._max_lag = max_lag or 0.0
        self._marks: deque[Mark] = deque()
        self._turn = 0
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look once (at most 2 s), so that the first read finds them, and then again and again.

        A replica that is down is skipped, and stops no start.
        """
        await self._look()
        self._watching = asyncio.create_task(self._watch(), name="watch of replicas")

    async def stop(self) -> None:
        """Look no more; twice is harmless."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))
            self._watching = None
        lookouts = [one.lookout for one in self._members]
        await asyncio.gather(*(one.stop() for one in [*lookouts, self._primary] if one is not None))

    async def emptied(self) -> None:
        """Wait until no connection to a replica is in use."""
        for replica in self._members:
            await replica.gate.emptied()

    async def close(self) -> None:
        """Stop, and close the connections."""
        await self.stop()
        for replica in self._members:
            await replica.engine.dispose()

    def usable(self) -> list[Replica]:
        """Return those that a read may go to, the least busy first, in turns among equals."""
        now = asyncio.get_running_loop().time()
        self._turn = (self._turn + 1) % len(self._members)
        in_turn = self._members[self._turn :] + self._members[: self._turn]
        return sorted((one for one in in_turn if one.may_be_read(now)), key=lambda one: one.load)

    def statistics(self) -> tuple[ReplicaStatistics, ...]:
        """Return the numbers of this moment."""
        now = asyncio.get_running_loop().time()
        return tuple(replica.statistics(now) for replica in self._members)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._period)
            await self._look()

    async def _look(self) -> None:
        if self._primary is not None:
            await self._mark(self._primary)
        await asyncio.gather(*(self._look_at(replica) for replica in self._members))

    async def _mark(self, primary: Lookout) -> None:
        now = asyncio.get_running_loop().time()
        try:
            position = await primary.answer()
        except Exception:
            return  # readiness tells of it; here, all replicas grow older
        if position is not None:
            self._marks.append(Mark(position, now))
        while self._marks and now - self._marks[0].at > self._max_lag:
            self._marks.popleft()

    async def _look_at(self, replica: Replica) -> None:
        loop = asyncio.get_running_loop()
        try:
            position = await replica.lookout.answer()
        except Exception as error:
            replica.fail(first_line(error), loop.time())
        else:
            replica.answered(position, self._marks, loop.time())


def new_replicas(
    texts: Sequence[str], primary: URL, pooling: Pooling, *, max_lag: float | None
) -> Replicas | None:
    """Return the replicas at these URLs of the database at `primary`, or None without any.

    It connects to nothing yet.

    Raises:
        InvalidSetting: A URL can be no replica of `primary`.
    """
    urls = replica_urls(texts, primary)
    if not urls:
        return None
    tell = _teller(pooling)

    def member(url: URL) -> Replica:
        gate = pooling.new_gate(f" to its replica {place(url)}")
        question = IS_UP if max_lag is None else STANDBY
        return Replica(
            place(url),
            pooling.new_engine(url, gate, writers=gate),  # there are none
            gate,
            Lookout(pooling.new_lookout_engine(url), question),
            max_lag=max_lag,
            tell=tell,
        )

    asks = None if max_lag is None else Lookout(pooling.new_lookout_engine(primary), PRIMARY)
    return Replicas([member(url) for url in urls], asks, max_lag=max_lag)


def _teller(pooling: Pooling) -> Callable[[str, str | None], None]:
    """Return the function that tells of a replica that is skipped (why), or used again (None)."""

    def tell(place: str, why: str | None) -> None:
        if why is None:
            _log.warning("%s: the replica %s is read from again", pooling.name, place)
            pooling.emit(ReplicaRegained(place))
        else:
            _log.warning("%s: the replica %s is skipped: %s", pooling.name, place, why)
            pooling.emit(ReplicaSkipped(place, why))

    return tell
