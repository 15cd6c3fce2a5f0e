"""The budget: how many extra attempts, retries and hedges together, an upstream is asked for."""

from stormproof._arguments import check_count, check_seconds
from stormproof._core.clock import MONOTONIC, Clock
from stormproof.errors import InvalidSetting

from ._recent import RecentCounts


class Budget:
    """Allows extra attempts up to a fraction of the calls of the last seconds.

    An extra attempt (a retry or a hedge) is allowed while fewer than
    max(`minimum`, `fraction` x calls) were made in the last `window` seconds. So an upstream
    that fails every call is asked at most (1 + `fraction`) times as often as its callers ask,
    and `minimum` times more per window. One budget for each upstream, shared by whatever asks
    it again.

    It counts recent calls and not those in flight (as Envoy does): where failures come within
    milliseconds hardly a call is in flight, and a minimum of 3 at a time allows any number of
    retries in a second.

    Args:
        fraction: Extra attempts for each call, 0 to 1.
        minimum: Extra attempts that are always allowed in a window, so that a service with few
            calls may repeat one.
        window: Seconds that it looks back; counted in tenths.
        clock: Where the time is read.

    Raises:
        InvalidSetting: A number is out of its range.

    Source: Finagle, `RetryBudget` (a fraction of recent requests and a minimum); the fraction
    in flight is Envoy's `retry_budget`.

    versionadded: 0.1
    """

    def __init__(
        self,
        fraction: float = 0.1,
        *,
        minimum: int = 3,
        window: float = 10.0,
        clock: Clock = MONOTONIC,
    ) -> None:
        if not 0 <= fraction <= 1:
            raise InvalidSetting(f"Budget(fraction={fraction!r}) must be from 0 to 1")
        check_count("Budget", least=0, minimum=minimum)
        check_seconds("Budget", window=window)
        self._fraction = fraction
        self._minimum = minimum
        self._recent = RecentCounts(window=window, clock=clock)  # calls, and extra attempts
        self._refused = 0

    @property
    def refused(self) -> int:
        """How many extra attempts it has not allowed."""
        return self._refused

    @property
    def left(self) -> int:
        """How many extra attempts it would allow now."""
        self._recent.look()
        return max(0, self._allowed() - self._recent.second)

    @property
    def share_left(self) -> float:
        """The share of its extra attempts that it would still allow, 0 to 1."""
        left = self.left
        return left / self._allowed() if left else 0.0

    def note_call(self) -> None:
        """Count a call's first attempt."""
        self._recent.add(1, 0)

    def take(self) -> bool:
        """Count an extra attempt and return True, or return False: it must not be made."""
        if self.left == 0:
            self._refused += 1
            return False
        self._recent.add(0, 1)
        return True

    def _allowed(self) -> int:
        return max(self._minimum, int(self._fraction * self._recent.first))
