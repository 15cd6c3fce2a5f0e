"""PostgresBus: the log of a hub as a table, published to in the caller's own transaction."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import asyncpg

from stormproof._arguments import check_count, check_seconds
from stormproof.errors import BusUnusable, InvalidSetting

from ._bus import Entry, Position, Session
from ._follow import Stored
from ._postgres_link import Link
from ._postgres_schema import Statements
from ._store_bus import StoreBus
from ._writer import Batch

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,40}")
_LARGEST = 2**63 - 1
_LOCK = 0x73746F726D70726F
"""Held while the schema is made: IF NOT EXISTS fails when two do it at once."""


class PostgresBus(StoreBus[Link]):
    """The log of a hub as a table in PostgreSQL, shared by all processes.

    `append` writes to the log in a short transaction of its own. `append_in` publishes in the
    caller's transaction: the event becomes readable after the COMMIT, and never without it. It
    waits for nobody and holds nobody up, however long that transaction takes.

    A process holds three connections, whatever the number of its subscribers: one that reads for
    all of them, one to replay with and one to append with. NOTIFY wakes the reader; it is only a
    wake-up, since a LISTEN can die silently: the table is asked every `poll` seconds anyway.

    An id is `<epoch>-<offset>` in the order of the commits, without holes: whatever is missing
    (trimmed, deleted, forgotten by a failover) is `HistoryLost` for the reader who would have
    needed it. Appending is idempotent: the database knows the last batch of each publisher, so an
    append whose answer was lost is sent again without being stored twice.

    Args:
        url: `postgresql://…`, as for `Database`. A pooler of transactions keeps no LISTEN; behind
            one, `poll` alone wakes.
        log: The name of the table; `create` makes it and what belongs to it.
        keep: Entries that can be read again; up to a tenth more are kept.
        max_age: Seconds after which entries are deleted; None for no limit. Looked at when
            something is published, every ten seconds at most.
        timeout: Seconds that an append, a tail or a replay may take, reconnecting included.
        answer_within: Seconds after which a server that gives no answer is taken for lost.
        poll: Seconds of silence after which a reader looks for itself.

    Raises:
        InvalidSetting: An argument cannot be used.

    versionadded: 0.1
    """

    _refusals = (asyncpg.PostgresError,)

    def __init__(
        self,
        url: str,
        *,
        log: str = "stormproof_events",
        keep: int = 100_000,
        max_age: float | None = None,
        timeout: float = 10.0,
        answer_within: float = 2.0,
        poll: float = 1.0,
    ) -> None:
        check_count("PostgresBus", keep=keep)
        check_seconds("PostgresBus", timeout=timeout, answer_within=answer_within, poll=poll)
        check_seconds("PostgresBus", or_none=True, max_age=max_age)
        if not _NAME.fullmatch(log):
            raise InvalidSetting(
                f"PostgresBus: log ({log!r}) must be a name of at most 41 of a-z, 0-9 and _"
            )
        self._sql = Statements(log)

        def link(**listening: Any) -> Link:
            return Link(url, answer_within=answer_within, learn=self._sql.learn, **listening)

        super().__init__(
            f"PostgresBus {log!r}",
            link(channel=log, heard=self._hear),
            link(),
            link(),
            timeout=timeout,
            answer_within=answer_within,
            poll=poll,
        )
        self._trimming = (keep, None if max_age is None else timedelta(seconds=max_age))
        self._woken = asyncio.Event()
        self._has_outbox = True
        self._moved_at = 0.0

    @property
    def schema(self) -> str:
        """The SQL that `create` runs, for a migration; to run it again changes nothing."""
        return self._sql.schema

    async def create(self) -> None:
        """Make the tables and functions that are missing; several processes may at once.

        Waits at most `timeout` seconds. Cancelled: all of it is made or nothing.

        Raises:
            BusUnavailable: PostgreSQL could not be reached.
            BusUnusable: The user may not do it.
        """
        script = f"SELECT pg_advisory_xact_lock({_LOCK}); {self.schema}"
        await self._ask(self._replaying, lambda: self._replaying.execute(script))

    async def append_in(self, session: Session, entry: Entry) -> None:
        """Publish `entry` with the session's transaction: readable after its COMMIT, or never.

        Waits for one statement. There is no position yet: it is given after the COMMIT.

        Args:
            session: An AsyncSession of SQLAlchemy on the same database, by asyncpg or psycopg.
            entry: What to publish.

        Raises:
            InvalidSetting: The session is of another driver.
        """
        connection = await session.connection()
        statement = self._sql.publish.get(connection.dialect.paramstyle)
        if statement is None:
            raise InvalidSetting(
                f"{self._name}: session is on {connection.dialect.name} by "
                f"{connection.dialect.driver}; publish with one on PostgreSQL by asyncpg or psycopg"
            )
        values = (entry.topic, entry.data, entry.event, entry.key)
        await connection.exec_driver_sql(statement, values)

    async def close(self) -> None:
        """As `StoreBus.close`."""
        await super().close()
        self._woken = asyncio.Event()  # the old one belongs to the loop that waited for it

    async def _close_link(self, link: Link) -> None:
        await link.close()

    def _check(self, entry: Entry) -> None:
        super()._check(entry)
        if any(
            "\0" in text for text in (entry.topic, entry.data, entry.event or "", entry.key or "")
        ):
            raise InvalidSetting(
                f"{self._name}: an event on {entry.topic!r} has a NUL, which PostgreSQL cannot "
                "store; publish it as JSON, which escapes it"
            )

    def _hear(self, payload: str | None) -> None:
        self._has_outbox = self._has_outbox or payload != ""
        self._woken.set()

    async def _follow(self, after: Position, limit: int, end_at: float) -> list[Entry]:
        loop = asyncio.get_running_loop()
        while True:
            self._woken.clear()
            await self._reading.connected()
            # After a while in any case: the LISTEN may be dead, and whoever else was woken, too.
            if self._has_outbox or loop.time() - self._moved_at >= self._poll:
                self._has_outbox = False
                await self._move()
            entries = await self._read_after(self._reading, after, limit)
            left = end_at - loop.time()
            if entries or left <= 0:
                return entries
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, self._poll)):
                    await self._woken.wait()

    async def _move(self) -> None:
        link = self._reading
        [[is_done]] = await link.fetch(self._sql.move, link.process, *self._trimming)
        self._moved_at = asyncio.get_running_loop().time()
        # Else there is more; or somebody is at it, who may have begun too early for what we were
        # told of, and who wakes us at his end.
        self._has_outbox = self._has_outbox or not is_done

    async def _look(
        self, link: Link, after: Position, limit: int
    ) -> tuple[Position, Sequence[Stored]]:
        rows = await link.fetch(self._sql.look, min(after.offset, _LARGEST), limit)
        if not rows:
            raise BusUnusable(f"{self._name}: its facts are deleted; `await bus.create()` again")
        tail = Position(rows[0]["epoch"], rows[0]["last"])
        return tail, [_stored(row) for row in rows if row["place"] is not None]

    async def _write(self, batch: Batch) -> Position:
        link = self._writing
        await link.connected()
        entries = batch.send()
        if not entries:
            return Position("", 0)
        arguments = (
            self._publisher,
            batch.number,
            link.process,
            *self._trimming,
            [entry.topic for entry in entries],
            [entry.data for entry in entries],
            [entry.event for entry in entries],
            [entry.key for entry in entries],
        )
        while True:  # ends: each turn moves a part of the outbox, and `timeout` is around it
            [row] = await link.fetch(self._sql.write, *arguments)
            if row["last"] is not None:
                return Position(row["epoch"], row["last"])

    def _refused(self, error: Exception) -> BusUnusable:
        way_out = "the server refuses"
        if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedFunctionError):
            way_out = "its tables are missing, `await bus.create()` makes them"
        return BusUnusable(f"{self._name}: {way_out} ({error})")


def _stored(row: Any) -> Stored:
    entry = Entry(row["topic"], row["data"], row["event"], row["key"], offset=row["place"])
    return Stored(entry, row["follows"])
