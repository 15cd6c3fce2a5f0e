"""Works: how long each kind of work holds its slot, where callers say what they come for."""

from collections.abc import Callable, Hashable
from typing import TypeAlias

Work: TypeAlias = Hashable | Callable[[], Hashable | None]
"""What a caller holds its slot for; a function is asked when it is needed, None is unknown."""

_KEPT = 1024
_DOUBT_AFTER = 20
_DOUBT = 0.98
_NEWS = 0.1  # the weight of the last call in a mean


class HoldSpread:
    """How long one kind of work takes: its mean, and how far from it the calls are on average.

    Attributes:
        mean: Seconds.
        deviation: Seconds.
    """

    __slots__ = ("_refused", "deviation", "mean")

    def __init__(self, seconds: float) -> None:
        self.mean = seconds
        self.deviation = seconds / 4
        self._refused = 0  # since a call was measured

    @property
    def most(self) -> float:
        """The seconds within which nearly all calls end.

        Source: V. Jacobson, "Congestion Avoidance and Control", SIGCOMM 1988 (the mean deviation
        as the cheap measure of spread); three deviations here, four there.
        """
        return self.mean + 3.0 * self.deviation

    def add(self, seconds: float) -> None:
        """Learn that one call took so long."""
        self._refused = 0
        error = seconds - self.mean
        self.mean += _NEWS * error
        self.deviation += _NEWS * (abs(error) - self.deviation)

    def doubt(self) -> None:
        """Believe it less, because many calls were refused for it and none was measured.

        Else a first call that took long would be the last one under an endless overload.
        """
        self._refused += 1
        if self._refused > _DOUBT_AFTER:
            self.mean *= _DOUBT
            self.deviation *= _DOUBT


class Works:
    """Times by kind of work; of a thousand kinds the ones that came last are kept."""

    __slots__ = ("_all", "_kinds")

    def __init__(self) -> None:
        self._kinds: dict[Hashable, HoldSpread] = {}
        self._all: HoldSpread | None = None

    @property
    def mean(self) -> float | None:
        """Seconds of all kinds together, as often as they come; None before the first."""
        return None if self._all is None else self._all.mean

    def expected(self, work: Work) -> HoldSpread | None:
        """Return how long `work` takes, or None for a kind that is not known yet."""
        return self._kinds.get(_named(work)) if self._kinds else None

    def ended(self, work: Work, seconds: float, *, is_cut: bool) -> None:
        """Learn that one call of `work` took `seconds`, or was cut then: it takes longer."""
        name = _named(work)
        if name is None:
            return
        kind = self._kinds.pop(name, None)
        if is_cut and kind is not None and seconds <= kind.mean:
            self._kinds[name] = kind
            return
        self._kinds[name] = kind = _after(kind, seconds)
        self._all = _after(self._all, seconds)
        if len(self._kinds) > _KEPT:
            del self._kinds[next(iter(self._kinds))]


def _named(work: Work) -> Hashable | None:
    return work() if callable(work) else work


def _after(known: HoldSpread | None, seconds: float) -> HoldSpread:
    if known is None:
        return HoldSpread(seconds)
    known.add(seconds)
    return known
