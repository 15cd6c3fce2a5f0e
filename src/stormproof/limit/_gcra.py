"""GCRA: how often, as pure arithmetic on one number."""

from dataclasses import dataclass


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
        full_at: The new state: when the whole quota would be there again.
        remaining: Calls that could come at once after this one.
        retry_after: Seconds until a call is allowed; 0.0 when this one was.
        reset: Seconds until the whole quota is there again.
    """

    is_allowed: bool
    full_at: float
    remaining: int
    retry_after: float
    reset: float


def judge(quota: Quota, full_at: float, now: float) -> Verdict:
    """Decide about a call at `now`, with the state that the last one left.

    The state is one time, "theoretical arrival time": each call moves it by one interval, and a
    call is refused when that would put it more than a window ahead. The same as a bucket of
    `calls` tokens that fills up evenly, without a timer that fills it.

    Source: ITU-T I.371, the Generic Cell Rate Algorithm (virtual scheduling).
    """
    interval = quota.interval
    after = max(full_at, now) + interval
    too_early = after - now - quota.seconds
    # A millionth of an interval, lest rounding refuses what was earned to the very call.
    if too_early > interval * 1e-6:
        return Verdict(False, full_at, 0, too_early, full_at - now)
    remaining = int((quota.seconds - (after - now)) / interval + 1e-6)
    return Verdict(True, after, remaining, 0.0, after - now)
