"""The ring: the newest events of a log, so that most clients resume without asking the bus."""

from bisect import bisect_right
from operator import attrgetter

from ._published import Published

_offset = attrgetter("offset")


class Ring:
    """The last events that were read, at least `keep` of them, and which offsets they cover.

    Args:
        keep: How many events stay; up to twice as many are held for a while.
        start: The offset after which it has every event.
    """

    __slots__ = ("_events", "_keep", "start")

    def __init__(self, keep: int, start: int) -> None:
        self._keep = keep
        self._events: list[Published] = []
        self.start = start

    def append(self, event: Published) -> None:
        """Add the newest event, and drop the oldest in bulk."""
        self._events.append(event)
        if len(self._events) >= 2 * self._keep:
            dropped = len(self._events) - self._keep
            self.start = self._events[dropped - 1].offset
            del self._events[:dropped]

    def after(self, offset: int, limit: int) -> list[Published] | None:
        """Return up to `limit` events after `offset`; None if the bus has to be asked.

        That is so when the ring does not reach back so far, and when it knows no such offset: a
        store that was restored may have lost what a client has seen, and only the bus can tell.
        """
        if offset < self.start:
            return None
        at = bisect_right(self._events, offset, key=_offset)
        if offset != (self._events[at - 1].offset if at else self.start):
            return None
        return self._events[at : at + limit]
