"""Recent counts: two counters over the last seconds, in tenths of that time."""

from collections import deque

from stormproof._core.clock import Clock

_SLICES = 10


class RecentCounts:
    """Counts two things, and forgets what is older than its window.

    Args:
        window: Seconds that it looks back, counted in tenths.
        clock: Where the time is read.

    Attributes:
        first: How many of the first were counted in the window, as of the last look.
        second: How many of the second.
    """

    __slots__ = ("_clock", "_recent", "_slice", "first", "second")

    def __init__(self, *, window: float, clock: Clock) -> None:
        self._slice = window / _SLICES
        self._clock = clock
        # [number of the slice, first, second], oldest first.
        self._recent: deque[list[int]] = deque()
        self.first = self.second = 0

    def add(self, first: int, second: int) -> None:
        """Count so many of each now."""
        number = self.look()
        recent = self._recent
        if not recent or recent[-1][0] != number:
            recent.append([number, 0, 0])
        recent[-1][1] += first
        recent[-1][2] += second
        self.first += first
        self.second += second

    def look(self) -> int:
        """Forget what is older than the window; returns the number of this moment's slice."""
        number = int(self._clock.now() / self._slice)
        recent = self._recent
        while recent and recent[0][0] <= number - _SLICES:
            _, first, second = recent.popleft()
            self.first -= first
            self.second -= second
        return number

    def forget(self) -> None:
        """Forget everything."""
        self._recent.clear()
        self.first = self.second = 0
