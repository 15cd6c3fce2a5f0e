"""GCRA: how often, as pure arithmetic on one number."""

from dataclasses import dataclass

ROUNDING = 1e-6
"""Of an interval: lest rounding refuses what was earned to the very call."""


@dataclass(frozen=True, slots=True)
class Quota:
    """So many calls in so many seconds, all of them at once at most.

    Attributes:
        calls: Calls in a window; also how many may come at once.
        seconds: The length of the window.
    """

    calls: int
    seconds: float

    @property
    def interval(self) -> float:
        """Seconds in which one call is earned."""
        return self.seconds / self.calls


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one call is told.

    Attributes:
        is_allowed: Whether it may go on.
        remaining: Calls that could come at once after this one.
        retry_after: Seconds until a call is allowed; 0.0 when this one was.
        reset: Seconds until the whole quota is there again; the state that this call leaves.
    """

    is_allowed: bool
    remaining: int
    retry_after: float
    reset: float


def judge(quota: Quota, ahead: float) -> Verdict:
    """Decide about a call that comes `ahead` seconds before the whole quota is there again.

    The state is one time, the "theoretical arrival time": each call moves it by one interval,
    and a call is refused when that would put it more than a window ahead. The same as a bucket
    of `calls` tokens that fills up evenly, without a timer that fills it.

    Source: ITU-T I.371, the Generic Cell Rate Algorithm (virtual scheduling).
    """
    interval = quota.interval
    reset = max(ahead, 0.0) + interval
    if reset - quota.seconds > interval * ROUNDING:
        return refused(quota, ahead)
    return allowed(quota, reset)


def allowed(quota: Quota, reset: float) -> Verdict:
    """Return what an allowed call is told, `reset` seconds before its quota is whole again."""
    remaining = int((quota.seconds - reset) / quota.interval + ROUNDING)
    return Verdict(True, remaining, 0.0, reset)


def refused(quota: Quota, reset: float) -> Verdict:
    """Return what a refused call is told, `reset` seconds before its quota is whole again."""
    return Verdict(False, 0, reset + quota.interval - quota.seconds, reset)
