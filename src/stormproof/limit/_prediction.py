"""The prediction: how long a newcomer would wait, and whether it may."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Reason: TypeAlias = Literal["queue", "target", "deadline", "priority", "closed"]
"""Why a caller was turned away.

- "queue": it would have waited, or has waited, longer than `max_wait`.
- "target": the queue has been standing, and it would have waited longer than `target_wait`.
- "deadline": it would have been too late, or its deadline has passed.
- "priority": a caller of a higher priority would have been let wait.
- "closed": the limiter is closed.
"""

COLD_WAITERS = 10
"""Callers per slot that may wait before anything is measured."""

HOLD_MARGIN = 1.5
"""What a slot is expected to be held for, in means of all, where a deadline has to be met.

Of callers with 0.15 s for 0.05 s of work, at five times the capacity, the mean alone let 35 %
of the capacity go into work that was late; 1.5 let 3 %, all of it before it was measured.
"""


_BURST = 0.2
"""Of `max_wait`: a queue that has stood for so long is no burst."""

_AT_ONCE = 0.04
"""Of `max_wait`: what comes within comes at once."""


class HoldTime:
    """How long a slot is held on average, measured at releases while callers wait.

    While somebody waits every slot is in use, so by Little's law the mean time a slot is held is
    slots in use * time passed / releases: the drain rate is capacity / hold. Nothing is read
    while nobody waits. Both sums are forgotten at the same pace, over about two rounds of all
    slots, so that a round in lock-step weighs as much as a spread one.

    Source: J. D. C. Little, "A Proof for the Queuing Formula L = λW", 1961.
    """

    __slots__ = ("_busy", "_counted_at", "_releases")

    def __init__(self) -> None:
        self._busy = 0.0  # slot-seconds, fading
        self._releases = 0.0  # fading
        self._counted_at = 0.0

    def begin(self, now: float) -> None:
        """Somebody waits from `now` on, after nobody did."""
        self._counted_at = now

    def released(self, now: float, in_use: int) -> None:
        """Count one release while somebody waits; `in_use` slots were held until `now`."""
        keep = 1.0 - 1.0 / (2 * in_use + 10)
        self._busy = self._busy * keep + in_use * (now - self._counted_at)
        self._releases = self._releases * keep + 1.0
        self._counted_at = now

    def mean(self, capacity: int) -> float | None:
        """Return the seconds a slot is held; None before one round of releases was seen."""
        # 0.75: the first round fades while it is counted.
        return None if self._releases < 0.75 * capacity else self._busy / self._releases

    def expected(self, capacity: int, now: float) -> float | None:
        """Return `mean`, or what the slots have been held for by now, if that is longer.

        Call it only while somebody waits. So a resource that hangs is noticed before anything
        is released.
        """
        mean = self.mean(capacity)
        return None if mean is None else max(mean, now - self._counted_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """What a newcomer would meet, as far as is known.

    Attributes:
        wait: Seconds until it had a slot.
        hold: Seconds it would then hold it at most; 0.0 when that is not known.
        left: Seconds to its deadline, or None.
        share: The share of the allowed wait that its priority has, above 0 and up to 1.
        is_first: Whether nobody else waits.
        standing: Seconds for which its line has not been empty.
    """

    wait: float
    hold: float
    left: float | None
    share: float
    is_first: bool
    standing: float


def refusal(ahead: Ahead, *, max_wait: float, target_wait: float) -> Reason | None:
    """Decide on arrival: return why the caller is turned away, or None to let it wait.

    A queue that drains is a burst, and all of `max_wait` is for that; a queue that stands only
    makes everybody late. Which it is shows in time: what is allowed goes down from `max_wait`
    to `target_wait` while the queue stands for a fifth of `max_wait`. Whoever would be the first
    in the queue may always wait (unless its deadline forbids), so that the slots never run dry
    and the measurement never stops.

    At five times the capacity from one moment on, 99 % of all served in 20 s then had their
    answer within 0.18 s; with all of `max_wait` until the queue had stood for that long it was
    0.53 s. The price is paid by bursts that are neither at once nor slow: of 100 calls spread
    over 0.1 s 76 are served and not 99, over 0.2 s 61 and not 100.

    Source: K. Nichols, V. Jacobson, "Controlling Queue Delay", ACM Queue 10(5), 2012 (target,
    and that one packet is no queue); here the queue is not cut but closed.
    """
    if ahead.left is not None and ahead.wait + ahead.hold > ahead.left:
        return "deadline"
    if max_wait == 0.0:
        return "queue"
    if ahead.is_first:
        return None
    if ahead.wait > max_wait:
        return "queue"
    allowed = allowed_wait(ahead.standing, max_wait=max_wait, target_wait=target_wait)
    if ahead.wait > allowed:
        return "target"
    return "priority" if ahead.wait > allowed * ahead.share else None


def allowed_wait(standing: float, *, max_wait: float, target_wait: float) -> float:
    """Return the seconds a newcomer may wait when the queue has stood for `standing`.

    All of `max_wait` at first, because what comes at once takes a while to be read.
    """
    at_once, burst = _AT_ONCE * max_wait, _BURST * max_wait
    if target_wait >= max_wait or standing <= at_once:
        return max_wait
    if standing >= burst:
        return target_wait
    return max_wait - (max_wait - target_wait) * (standing - at_once) / (burst - at_once)
