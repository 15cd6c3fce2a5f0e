"""Published events: encoded once for each kind of connection, and shared by all subscribers."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from ._bus import Entry, Position
from ._wire import SSE, Wire


class Published:
    """One event on its way to the subscribers; what a `filter` is called with.

    versionadded: 0.1
    """

    __slots__ = ("_entry", "_frames", "_json", "id")

    def __init__(self, entry: Entry, epoch: str) -> None:
        self._entry = entry
        self.id = str(Position(epoch, entry.offset))
        self._frames: dict[tuple[Wire, str | None], Any] = {}
        self._json: tuple[Any] | None = None

    @property
    def topic(self) -> str:
        """What it was published to."""
        return self._entry.topic

    @property
    def event(self) -> str | None:
        """Its name, or None."""
        return self._entry.event

    @property
    def key(self) -> str | None:
        """Events of one key replace each other for a reader who is behind; None for no such."""
        return self._entry.key

    @property
    def data(self) -> str:
        """The text of its data."""
        return self._entry.data

    @property
    def offset(self) -> int:
        """Its place in the log."""
        return self._entry.offset

    def json(self) -> Any:
        """Return its data, read as JSON, once for all who ask; to be left as it is."""
        if self._json is None:
            self._json = (json.loads(self._entry.data),)
        return self._json[0]

    def frame(self, wire: Wire, data: str | None = None) -> Any:
        """Return the payload for `wire`, encoded once; `data` takes the place of its own."""
        found = self._frames.get((wire, data))
        if found is None:
            entry = self._entry
            text = entry.data if data is None else data
            found = wire.encode(id=self.id, event=entry.event, data=text)
            self._frames[wire, data] = found
        return found


class Run:
    """Events of one topic that follow each other: what most subscribers get in one send.

    Attributes:
        topic: The topic.
        events: The events, oldest first.
        joined: All of them as server-sent events, encoded once.
    """

    __slots__ = ("events", "joined", "topic")

    def __init__(self, events: Sequence[Published]) -> None:
        self.topic = events[0].topic
        self.events = events
        frames = [event.frame(SSE) for event in events]
        self.joined: bytes = frames[0] if len(frames) == 1 else b"".join(frames)


_RUN_CHARS = 16_384
"""About the bytes that are sent as one; more would be kept in flight for a reader who stalls."""


def runs_of(events: Iterable[Published]) -> list[Run]:
    """Return `events` in their order, put together while the topic stays and they are small."""
    runs: list[list[Published]] = []
    size = 0
    for event in events:
        size += len(event.data)
        if runs and runs[-1][0].topic == event.topic and size <= _RUN_CHARS:
            runs[-1].append(event)
        else:
            runs.append([event])
            size = len(event.data)
    return [Run(run) for run in runs]
