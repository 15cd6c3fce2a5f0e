"""The bus of a hub: one log with a total order, in which every event has a position."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

_POSITION = re.compile(r"([0-9A-Za-z]{1,64})-([0-9]{1,19})", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a log, on the wire `epoch-offset`: what a browser sends as `Last-Event-ID`.

    Attributes:
        epoch: Names the store; a store that is made anew has another. Letters and digits.
        offset: Grows with every event of the log, over all topics. 0 is before the first.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Position | None":
        """Return the position that `text` names, or None: clients send what they like."""
        found = _POSITION.fullmatch(text)
        return None if found is None else cls(found[1], int(found[2]))


@dataclass(frozen=True, slots=True)
class Entry:
    """One event as the log keeps it.

    Attributes:
        topic: Who is to have it.
        data: The text of its data: already encoded, once for all subscribers.
        event: Its name, None for the browser's default ("message").
        key: Events of one key replace each other for a reader who is behind; None for no such.
        offset: Its place in the log; 0 as long as it is not appended.
    """

    topic: str
    data: str
    event: str | None = None
    key: str | None = None
    offset: int = 0


class HistoryLost(Exception):
    """What came after a position cannot be read any more: trimmed, or another store's."""


class Bus(Protocol):
    """Where a hub keeps its events and learns of those that other processes publish.

    A bus is one log: its reader gets every entry once, in one order, whatever its topic.
    """

    async def append(self, entry: Entry) -> Position:
        """Append `entry` and return its position; it is readable when this returns."""

    async def read(self, after: Position, *, limit: int, wait: float) -> Sequence[Entry]:
        """Return up to `limit` entries after `after`, oldest first.

        Waits up to `wait` seconds for the first; with nothing then, returns an empty sequence.
        Cancelled: nothing is lost, the next read from the same position returns the same.
        Survives a lost connection by itself: connects again and goes on after `after`.

        Raises:
            HistoryLost: An entry after `after` is gone, or `after` is of another epoch.
        """

    async def tail(self) -> Position:
        """Return the position of the newest entry: what is read after it is new."""

    async def close(self) -> None:
        """Close connections; a read under way ends. Idempotent."""


class Session(Protocol):
    """What a transactional bus uses of SQLAlchemy's `AsyncSession`."""

    async def connection(self) -> Any:
        """Return the AsyncConnection that its transaction is on."""


@runtime_checkable
class TransactionalBus(Protocol):
    """A bus that can publish in the transaction of a caller."""

    async def append_in(self, session: Session, entry: Entry) -> None:
        """Publish `entry` by the COMMIT of the session's transaction, and never without it."""
