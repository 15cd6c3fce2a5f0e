"""What a bus over a server does whichever server it is: attempts, turns, limits, and the gaps."""

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Generic, TypeVar

from stormproof._core.deadline import bounded
from stormproof.errors import BusUnusable, InvalidSetting, NotStarted

from ._attempts import Attempts
from ._bus import Entry, HistoryLost, Position
from ._follow import Stored, following
from ._writer import Batch, Writer

L = TypeVar("L")
T = TypeVar("T")


class StoreBus(ABC, Generic[L]):
    """A bus over a server that this process is connected to by links of type `L`.

    Args:
        name: What errors and logs call it.
        reading: The link of the one blocking read.
        replaying: The link for everything else that reads.
        writing: The link to append with.
        timeout: Seconds that an append, a tail or a replay may take, reconnecting included.
        answer_within: Seconds after which a server that gives no answer is taken for lost.
        poll: Seconds of silence after which a reader looks for itself.
    """

    _refusals: ClassVar[tuple[type[Exception], ...]]
    """What the driver raises when the server answers and refuses."""

    def __init__(
        self,
        name: str,
        reading: L,
        replaying: L,
        writing: L,
        *,
        timeout: float,
        answer_within: float,
        poll: float,
    ) -> None:
        if min(timeout, answer_within, poll) <= 0:
            raise InvalidSetting(
                f"{name}: timeout ({timeout}), answer_within ({answer_within}) and poll ({poll}) "
                "must be more than 0 s"
            )
        self._name = name
        self._publisher = secrets.token_hex(8)  # by it the server knows a batch that comes again
        self._reading, self._replaying, self._writing = reading, replaying, writing
        self._timeout = timeout
        self._answer_within = answer_within
        self._poll = poll
        self._locks = self._new_locks()
        self._attempts = Attempts(name)
        self._writer = Writer(self._write_once, name=name, timeout=timeout)

    async def append(self, entry: Entry) -> Position:
        """Append `entry` and return its position; it is readable when this returns.

        Waits at most `timeout` seconds and never past the deadline; a lost connection is made
        again meanwhile, and the entry is stored once. Cancelled: an entry on its way is stored
        or not.

        Raises:
            BusUnavailable: The server could not be reached; the entry is not stored.
            PublishUnknown: It went away with the entry and did not come back in time.
            BusUnusable: It refused.
            InvalidSetting: A text of the entry cannot be stored.
        """
        self._check(entry)
        return await self._writer.append(entry)

    async def read(self, after: Position, *, limit: int, wait: float) -> Sequence[Entry]:
        """Return up to `limit` entries after `after`, as `Bus.read`; at a gap they end before it.

        Raises:
            HistoryLost: An entry after `after` is gone, or `after` is of another epoch.
            BusUnavailable: The server could not be reached for `timeout` seconds, or `wait` if
                that is longer.
            BusUnusable: It refused.
        """
        wait = bounded(wait)
        if wait <= 0:
            return await self._ask(
                self._replaying, lambda: self._read_after(self._replaying, after, limit)
            )
        end_at = asyncio.get_running_loop().time() + wait
        try:
            return await self._ask(
                self._reading,
                lambda: self._follow(after, limit, end_at),
                at_least=wait + self._answer_within,
            )
        except NotStarted:
            return []  # closed meanwhile

    async def tail(self) -> Position:
        """Return the position of the newest entry; waits and raises as a `read` without wait."""
        # Of no epoch, so that no entry is looked for.
        nowhere = Position("", 0)
        tail, _ = await self._ask(self._replaying, lambda: self._look(self._replaying, nowhere, 0))
        return tail

    async def close(self) -> None:
        """Close the connections; a read under way returns nothing. Idempotent.

        An append whose answer is outstanding raises `PublishUnknown`, a replay or a tail under
        way `NotStarted`. Used again, also on
        another loop, the bus connects again.
        """
        self._attempts.close()
        await self._writer.close()
        for link in (*self._locks, self._writing):
            await self._close_link(link)
        self._locks = self._new_locks()

    @abstractmethod
    async def _look(
        self, link: L, after: Position, limit: int
    ) -> tuple[Position, Sequence[Stored]]:
        """Return the tail, and the entries after `after` if it is of the tail's epoch."""

    @abstractmethod
    async def _follow(self, after: Position, limit: int, end_at: float) -> list[Entry]:
        """Return what is after `after`, waiting for the first until `end_at` of the loop."""

    @abstractmethod
    async def _write(self, batch: Batch) -> Position:
        """Write a batch once, although this is called again after `LinkLost`."""

    @abstractmethod
    async def _close_link(self, link: L) -> None:
        """Close one link."""

    def _check(self, entry: Entry) -> None:
        """Refuse alone what would be refused with the whole batch."""
        try:
            "".join((entry.topic, entry.data, entry.event or "", entry.key or "")).encode()
        except UnicodeEncodeError as error:
            raise InvalidSetting(
                f"{self._name}: an event on {entry.topic!r} has text that is no Unicode ({error})"
            ) from error

    def _new_locks(self) -> dict[L, asyncio.Lock]:
        return {link: asyncio.Lock() for link in (self._reading, self._replaying)}

    async def _read_after(self, link: L, after: Position, limit: int) -> list[Entry]:
        tail, stored = await self._look(link, after, limit)
        if tail.epoch != after.epoch:
            raise HistoryLost(f"{self._name} began anew: {after} is not of epoch {tail.epoch}")
        entries = following(after.offset, stored)
        if not entries and tail.offset != after.offset:
            raise HistoryLost(f"{self._name} ends at {tail} and has nothing after {after}")
        return entries

    async def _ask(self, link: L, do: Callable[[], Awaitable[T]], *, at_least: float = 0.0) -> T:
        async def in_turn() -> T:
            async with self._locks[link]:  # ends: every attempt that holds it has a limit
                return await do()

        return await self._persist(in_turn, max(at_least, bounded(self._timeout)))

    async def _persist(self, do: Callable[[], Awaitable[T]], within: float) -> T:
        try:
            return await self._attempts.until_done(do, within=within)
        except self._refusals as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> BusUnusable:
        return BusUnusable(f"{self._name}: the server refuses: {error}")

    async def _write_once(self, batch: Batch) -> Position:
        return await self._persist(lambda: self._write(batch), self._timeout)
