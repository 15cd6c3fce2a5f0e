"""The queue of a limiter: one line for each key, and the lines take turns."""

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Literal, TypeAlias

Outcome: TypeAlias = Literal["granted", "late", "closed"]

_TOMBSTONES_KEPT = 64


class Waiter(asyncio.Future[Outcome]):
    """One caller that waits; a future that knows where, since when and how long.

    Attributes:
        line: The line it waits in.
        queued_at: When it came.
        left: Seconds it had to its deadline then, or None.
        hold: Seconds its work takes, or None where that is not known.
    """

    __slots__ = ("hold", "left", "line", "queued_at")

    line: "Line"
    queued_at: float
    left: float | None
    hold: float | None


class Line:
    """The callers of one key: who waits, in the order they came, and how many are inside.

    A waiter that gave up stays as a tombstone (it is done), so giving up costs O(1).

    Attributes:
        key: Whose line it is; None for callers without a key.
        most: How many may be inside at once.
        in_use: How many are inside; not counted for callers without a key.
        waiting: How many wait.
        busy_since: When the line was last empty; means something while somebody waits.
    """

    __slots__ = ("busy_since", "in_use", "is_in_ring", "key", "most", "waiters", "waiting")

    def __init__(self, key: Hashable | None, most: float) -> None:
        self.key = key
        self.most = most
        self.in_use = self.waiting = 0
        self.busy_since = 0.0
        self.is_in_ring = False
        # None until somebody waits: an empty deque has 0.6 kB, and most lines never need one.
        self.waiters: deque[Waiter] | None = None

    def bury(self) -> None:
        """Drop the tombstones when they outnumber the living: O(1) per waiter over time."""
        if self.waiters and len(self.waiters) > 2 * self.waiting + _TOMBSTONES_KEPT:
            self.waiters = deque(waiter for waiter in self.waiters if not waiter.done())


class Queue:
    """Hands out slots: to each line in turn, and within a line to who has waited longest.

    Attributes:
        waiting: How many wait, in all lines.
    """

    __slots__ = ("_deserted", "_known", "_known_hold", "_ring", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self._known = 0  # of those who wait, the ones whose work's time is known,
        self._known_hold = 0.0  # and how long they take together
        # The lines that may have a slot, the next one first; some are deserted, which is found
        # out when it is their turn, or when they outnumber the others.
        self._ring: deque[Line] = deque()
        self._deserted = 0

    def put(self, waiter: Waiter) -> None:
        """Let `waiter` wait behind all others of its line."""
        line = waiter.line
        if line.waiters is None:
            line.waiters = deque()
        if line.is_in_ring and not line.waiting:
            self._deserted -= 1
        line.waiters.append(waiter)
        self._count(waiter, 1)
        self._enlist(line)

    def take(self) -> Waiter | None:
        """Remove and return who is next and may have a slot, or None when there is nobody."""
        ring = self._ring
        while ring:
            line = ring.popleft()
            line.is_in_ring = False
            waiter = _first_alive(line)
            if waiter is None:
                self._deserted -= 1
                continue
            self._count(waiter, -1)
            line.in_use += 1
            self._enlist(line)
            return waiter
        return None

    def gave_up(self, waiter: Waiter) -> None:
        """`waiter` is done and was not taken: it is a tombstone from now on."""
        line = waiter.line
        self._count(waiter, -1)
        line.bury()
        if line.is_in_ring and not line.waiting:
            self._deserted += 1
            if self._deserted > len(self._ring) // 2 + _TOMBSTONES_KEPT:
                self._close_ranks()

    def left(self, line: Line) -> None:
        """One caller of `line` is not inside any more."""
        line.in_use -= 1
        self._enlist(line)

    def ahead(self, line: Line) -> int:
        """Return how many slots are handed out before a newcomer of `line` has one.

        The other lines have as many turns as its own, as far as they have waiters.
        """
        lines = len(self._ring) - self._deserted + (not line.waiting)
        return min(self.waiting, (line.waiting + 1) * max(1, lines) - 1)

    def hold(self, unknown: float) -> float:
        """Return the seconds that one of those who wait takes on average.

        `unknown` is what one takes whose work's time is not known.
        """
        if not self._known:
            return unknown
        return (self._known_hold + (self.waiting - self._known) * unknown) / self.waiting

    def is_first(self, line: Line) -> bool:
        """Return whether a newcomer of `line` would be the next to have a slot."""
        return not line.waiting and len(self._ring) == self._deserted

    def _count(self, waiter: Waiter, step: int) -> None:
        """Count a waiter in (1) or out (-1)."""
        waiter.line.waiting += step
        self.waiting += step
        if waiter.hold is not None:
            self._known += step
            # None is left of rounding when nobody is.
            self._known_hold = self._known_hold + step * waiter.hold if self._known else 0.0

    def _enlist(self, line: Line) -> None:
        if line.waiting and not line.is_in_ring and line.in_use < line.most:
            line.is_in_ring = True
            self._ring.append(line)

    def _close_ranks(self) -> None:
        for line in self._ring:
            line.is_in_ring = line.waiting > 0
        self._ring = deque(line for line in self._ring if line.is_in_ring)
        self._deserted = 0


def _first_alive(line: Line) -> Waiter | None:
    while line.waiters:
        waiter = line.waiters.popleft()
        if not waiter.done():
            return waiter
    return None
