"""RedisBus: the log of a hub as one Redis stream, which every process reads by id."""

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from stormproof._arguments import check_count, check_seconds
from stormproof.errors import BusUnusable, InvalidSetting

from ._bus import Entry, HistoryLost, Position
from ._follow import Stored, following
from ._redis_link import Link, Links, Script
from ._redis_scripts import APPEND, LOOK
from ._store_bus import StoreBus
from ._writer import Batch


class RedisBus(StoreBus[Link]):
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
        log: The stream is `{<log>}`; `{<log>}:facts` and `{<log>}:publisher:…` lie beside it.
        keep: Entries that can be read again; Redis trims whole blocks, so some more are kept.
        timeout: Seconds that an append, a tail or a replay may take, reconnecting included.
        answer_within: Seconds after which a server that gives no answer is taken for lost.
        poll: Seconds of silence after which a reader asks again, and notices a dead network.

    Raises:
        InvalidSetting: An argument cannot be used.

    versionadded: 0.1
    """

    _refusals = (ResponseError,)

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
        check_count("RedisBus", keep=keep)
        check_seconds("RedisBus", timeout=timeout, answer_within=answer_within, poll=poll)
        try:
            links = Links(url, answer_within)
        except ValueError as error:
            raise InvalidSetting(f"RedisBus: url: {error}") from error
        super().__init__(
            f"RedisBus {log!r}",
            links.make(),
            links.make(),
            links.make(),
            timeout=timeout,
            answer_within=answer_within,
            poll=poll,
        )
        self._keep = keep
        # In braces: in a cluster all keys of a log are then in one slot.
        self._keys = (f"{{{log}}}", f"{{{log}}}:facts")
        self._look_script, self._append_script = Script(LOOK), Script(APPEND)
        self._read_to: Position | None = None

    async def _close_link(self, link: Link) -> None:
        await link.drop()

    async def _follow(self, after: Position, limit: int, end_at: float) -> list[Entry]:
        link, loop = self._reading, asyncio.get_running_loop()
        await link.connect()
        while True:
            if link.is_fresh or self._read_to != after:
                entries = await self._read_after(link, after, limit)
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

    async def _look(
        self, link: Link, after: Position, limit: int
    ) -> tuple[Position, Sequence[Stored]]:
        _, last, found = await link.run(
            self._look_script, self._keys, after.epoch, after.offset, limit
        )
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
        link = self._writing
        await link.connect()
        texts = [text for entry in batch.send() for text in _texts(entry)]
        if not texts:
            return Position("", 0)
        keys = (*self._keys, f"{self._keys[0]}:publisher:{self._publisher}")
        facts = (batch.number, link.process, self._keep)
        return _position(await link.run(self._append_script, keys, *facts, *texts))

    def _refused(self, error: Exception) -> BusUnusable:
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
