"""RedisBus: the log of a hub as one Redis stream, which every process reads by id."""

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from redis.exceptions import ResponseError

from stormproof._core.deadline import bounded
from stormproof.errors import (
    BusUnusable,
    InvalidSetting,
    NotStarted,
)

from ._attempts import Attempts
from ._bus import Entry, HistoryLost, Position
from ._follow import Stored, following
from ._redis_link import Link, Links, Script
from ._redis_scripts import APPEND, LOOK
from ._writer import Batch, Writer

T = TypeVar("T")


class RedisBus:
    """The log of a hub as one stream of Redis 7 or Valkey, shared by all processes.

    A process holds three connections, whatever the number of its subscribers: one blocking read
    for all of them, one to replay with and one to append with. They are made when first needed
    and made again when lost; keep-alive and a limit on each answer find a dead network.

    An id is `<epoch>-<offset>`, and offsets have no holes: whatever is missing (trimmed, flushed,
    deleted, forgotten by a failover) is `HistoryLost` for the reader who would have needed it.
    Appending is idempotent: the server knows the last batch of each publisher, so an append whose
    answer was lost is sent again without being stored twice.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`.
        log: The key of the stream; `{<log>}:facts` and `{<log>}:publisher:…` lie beside it.
        keep: Entries that can be read again; Redis trims whole blocks, so some more are kept.
        timeout: Seconds that an append, a tail or a replay may take, reconnecting included.
        answer_within: Seconds after which a server that gives no answer is taken for lost.
        poll: Seconds of silence after which a reader asks again, and notices a dead network.

    Raises:
        InvalidSetting: An argument cannot be used.

    versionadded: 0.1
    """

    def __init__(
        self,
        url: str,
        *,
        log: str = "stormproof",
        keep: int = 100_000,
        timeout: float = 10.0,
        answer_within: float = 2.0,
        poll: float = 5.0,
    ) -> None:
        if keep < 1 or min(timeout, answer_within, poll) <= 0:
            raise InvalidSetting(
                f"RedisBus(keep={keep}, timeout={timeout}, answer_within={answer_within}, "
                f"poll={poll}): all must be positive"
            )
        try:
            links = Links(url, answer_within)
        except ValueError as error:
            raise InvalidSetting(f"RedisBus: url: {error}") from error
        self._name = f"RedisBus {log!r}"
        self._keep = keep
        self._timeout = timeout
        self._answer_within = answer_within
        self._poll = poll
        # In braces: in a cluster all keys of a log are then in one slot.
        self._keys = (f"{{{log}}}", f"{{{log}}}:facts")
        self._publisher = f"{{{log}}}:publisher:{secrets.token_hex(8)}"
        self._numbers = itertools.count(1)
        self._look, self._append = Script(LOOK), Script(APPEND)
        self._reading, self._replaying, self._writing = links.make(), links.make(), links.make()
        self._locks = {link: asyncio.Lock() for link in (self._reading, self._replaying)}
        self._read_to: Position | None = None
        self._attempts = Attempts(self._name)
        self._writer = Writer(self._write, name=self._name, timeout=timeout)

    async def append(self, entry: Entry) -> Position:
        """Append `entry` and return its position; it is readable when this returns.

        Waits at most `timeout` seconds and never past the deadline; a lost connection is made
        again meanwhile. Cancelled: an entry on its way is stored or not.

        Raises:
            BusUnavailable: Redis could not be reached; the entry is not stored.
            PublishUnknown: It went away with the entry and did not come back in time.
            BusUnusable: Redis refused: too old, out of memory, not allowed.
            NotStarted: The bus is closed.
        """
        return await self._writer.append(entry)

    async def read(self, after: Position, *, limit: int, wait: float) -> Sequence[Entry]:
        """Return up to `limit` entries after `after`, as `Bus.read`; at a gap they end before it.

        Raises:
            HistoryLost: An entry after `after` is gone, or `after` is of another epoch.
            BusUnavailable: Redis could not be reached for `timeout` seconds, or `wait` if longer.
            NotStarted: The bus is closed.
        """
        if wait <= 0:
            return await self._ask(self._replaying, lambda: self._replay(after, limit))
        self._attempts.expect_open()
        end_at = asyncio.get_running_loop().time() + wait
        try:
            return await self._ask(
                self._reading,
                lambda: self._follow(after, limit, end_at),
                at_least=wait + self._answer_within,
            )
        except NotStarted:
            return ()

    async def tail(self) -> Position:
        """Return the position of the newest entry; begins the log if there is none.

        Raises:
            BusUnavailable: Redis could not be reached within `timeout` seconds.
            BusUnusable: Redis refused: too old, out of memory, not allowed.
            NotStarted: The bus is closed.
        """
        nowhere = Position("", 0)
        tail, _ = await self._ask(
            self._replaying, lambda: self._look_after(self._replaying, nowhere, 0)
        )
        return tail

    async def close(self) -> None:
        """Close the connections; a read under way returns nothing. Idempotent.

        An append whose answer is outstanding raises `PublishUnknown`.
        """
        self._attempts.close()
        await self._writer.close()
        for link, lock in self._locks.items():
            async with lock:
                await link.drop()
        await self._writing.drop()

    async def _ask(self, link: Link, do: Callable[[], Awaitable[T]], *, at_least: float = 0.0) -> T:
        async def in_turn() -> T:
            async with self._locks[link]:  # ends: every attempt that holds it has a limit
                return await do()

        within = max(at_least, bounded(self._timeout))
        try:
            return await self._attempts.until_done(in_turn, within=within)
        except ResponseError as error:
            raise self._refused(error) from error

    async def _follow(self, after: Position, limit: int, end_at: float) -> list[Entry]:
        """Return the entries after `after`, waiting for the first until `end_at`."""
        link, loop = self._reading, asyncio.get_running_loop()
        await link.connect()
        while True:
            if link.is_fresh or self._read_to != after:
                entries = await self._after(link, after, limit)
                link.is_fresh = False
            else:
                left = end_at - loop.time()
                if left <= 0:
                    return []
                entries = await self._wait(link, after, limit, min(left, self._poll))
                # After a silence: the log may have been begun anew, with smaller ids.
                link.is_fresh = not entries
            self._read_to = Position(after.epoch, entries[-1].offset) if entries else after
            if entries:
                return entries

    async def _replay(self, after: Position, limit: int) -> list[Entry]:
        return await self._after(self._replaying, after, limit)

    async def _after(self, link: Link, after: Position, limit: int) -> list[Entry]:
        tail, stored = await self._look_after(link, after, limit)
        if tail.epoch != after.epoch:
            raise HistoryLost(f"{self._name} began anew: {after} is not of epoch {tail.epoch}")
        entries = following(after.offset, stored)
        if not entries and tail.offset != after.offset:
            raise HistoryLost(f"{self._name} ends at {tail}, and has nothing after {after}")
        return entries

    async def _look_after(
        self, link: Link, after: Position, limit: int
    ) -> tuple[Position, list[Stored]]:
        _, last, found = await link.run(self._look, self._keys, after.epoch, after.offset, limit)
        return _position(last), [_stored(each) for each in found]

    async def _wait(self, link: Link, after: Position, limit: int, seconds: float) -> list[Entry]:
        command = ("XREAD", "BLOCK", max(1, int(seconds * 1000)), "COUNT", limit, "STREAMS")
        told = await link.ask(*command, self._keys[0], str(after), wait=seconds)
        if not told:
            return []
        found = told[0][1]
        if _position(found[0][0]).epoch != after.epoch:
            raise HistoryLost(f"{self._name} began anew: {after} is followed by {found[0][0]!r}")
        return following(after.offset, [_stored(each) for each in found])

    async def _write(self, batch: Batch) -> Position:
        """Append a batch; a lost connection is made again and the batch sent again."""
        number = next(self._numbers)
        link, keys = self._writing, (*self._keys, self._publisher)

        async def attempt() -> bytes:
            await link.connect()
            texts = [text for entry in batch.send() for text in _texts(entry)]
            if not texts:
                return b"0-0"
            last: bytes = await link.run(
                self._append, keys, number, link.process, self._keep, *texts
            )
            return last

        try:
            return _position(await self._attempts.until_done(attempt, within=self._timeout))
        except ResponseError as error:
            raise self._refused(error) from error

    def _refused(self, error: ResponseError) -> BusUnusable:
        return BusUnusable(
            f"{self._name}: the server refuses ({error}); it needs Redis 7 or Valkey, memory to "
            "spare and a user who may run scripts"
        )


def _position(id: bytes) -> Position:
    epoch, _, offset = id.decode().partition("-")
    return Position(epoch, int(offset))


def _texts(entry: Entry) -> tuple[str, str, str, str]:
    event = "" if entry.event is None else f"={entry.event}"
    key = "" if entry.key is None else f"={entry.key}"
    return entry.topic, entry.data, event, key


def _stored(found: Any) -> Stored:
    id, values = found
    texts = [value.decode() for value in values]
    field = dict(zip(texts[::2], texts[1::2], strict=True))
    entry = Entry(
        field["t"], field["d"], field.get("e"), field.get("k"), offset=_position(id).offset
    )
    return Stored(entry, int(field["f"]) if "f" in field else None)
