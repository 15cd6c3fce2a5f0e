"""Latency: a quantile of what calls took lately, in little memory and without sorting."""

import math

from stormproof._core.clock import MONOTONIC, Clock

_SHORTEST = 0.0001
_LONGEST = 1000.0
_GROWTH = 1.1
_LOG_GROWTH = math.log(_GROWTH)
_BUCKETS = int(math.log(_LONGEST / _SHORTEST) / _LOG_GROWTH) + 2


class RotatingQuantile:
    """Counts durations in buckets that grow by 10 %, and forgets the older half every half window.

    A quantile is of the last half to whole window, rounded up by at most 10 %. Durations below
    0.1 ms count as 0.1 ms, above 1000 s as 1000 s. `quantile` looks from the longest duration
    down, so that a high one costs a few microseconds.

    Args:
        window: Seconds that it looks back at most.
        clock: Where the time is read.

    Source: the buckets are those of DDSketch (Masson, Rim and Lee, VLDB 2019), the rotation is
    that of Finagle's `WindowedPercentileHistogram`.
    """

    def __init__(self, *, window: float, clock: Clock = MONOTONIC) -> None:
        self._half = window / 2
        self._clock = clock
        self._rotates_at = -math.inf
        self._older = [0] * _BUCKETS
        self._newer = [0] * _BUCKETS
        self._older_total = self._newer_total = 0
        # The highest bucket in use: above it there is nothing to look at.
        self._older_top = self._newer_top = 0

    @property
    def total(self) -> int:
        """How many durations it remembers."""
        self._rotate()
        return self._older_total + self._newer_total

    def record(self, seconds: float) -> None:
        """Count one duration."""
        self._rotate()
        number = _bucket(seconds)
        self._newer[number] += 1
        self._newer_total += 1
        self._newer_top = max(self._newer_top, number)

    def quantile(self, share: float) -> float | None:
        """Return the seconds that a `share` (0 to 1) of the calls took at most; None: no calls."""
        total = self.total
        if total == 0:
            return None
        above = total - max(1, math.ceil(share * total))
        for number in range(max(self._older_top, self._newer_top), -1, -1):
            above -= self._older[number] + self._newer[number]
            if above < 0:
                return _SHORTEST * _GROWTH**number
        return _SHORTEST

    def _rotate(self) -> None:
        now = self._clock.now()
        if now < self._rotates_at:
            return
        is_recent = now < self._rotates_at + self._half
        self._older = self._newer if is_recent else [0] * _BUCKETS
        self._older_total = self._newer_total if is_recent else 0
        self._older_top = self._newer_top if is_recent else 0
        self._newer, self._newer_total, self._newer_top = [0] * _BUCKETS, 0, 0
        self._rotates_at = now + self._half


def _bucket(seconds: float) -> int:
    """Return the number of the bucket whose upper end is the first at or above `seconds`."""
    if seconds <= _SHORTEST:
        return 0
    # The tiny part taken away keeps an upper end itself in its own bucket.
    number = math.ceil(math.log(seconds / _SHORTEST) / _LOG_GROWTH - 1e-9)
    return min(number, _BUCKETS - 1)
