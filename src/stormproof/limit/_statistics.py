"""What limits tell about themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LimiterStatistics:
    """What a limiter is doing and has done; who has come is in one of waiting to cancelled.

    Attributes:
        capacity: Slots there are.
        in_use: Slots held now; above `capacity` only after `resize` made that smaller.
        waiting: Callers in the queue now.
        admitted: Callers that got a slot.
        shed: Callers turned away, on arrival or after a wait.
        cancelled: Callers cancelled while they waited.
        refusals: How many of `shed` were turned away for which reason: "queue", "target",
            "deadline", "priority" or "closed".
        hold: Seconds that a slot is held on average, as measured while callers waited; None
            before the first measurement.
        keys: Keys of which somebody is inside or waits.
    """

    capacity: int
    in_use: int
    waiting: int
    admitted: int
    shed: int
    cancelled: int
    refusals: Mapping[str, int] = field(default_factory=dict)
    hold: float | None = None
    keys: int = 0


@dataclass(frozen=True, slots=True)
class AdmissionStatistics:
    """What an admission has done; requests that are exempt are in none of these.

    Attributes:
        admitted: Requests that reached the app.
        refusals: How many were answered in its place, by reason: those of a limiter, "rate"
            and "store".
        gone: Requests that had a slot when their client had left, and did not reach the app.
        cancelled: Handlers that were cancelled because their client had left; they are among
            the admitted.
    """

    admitted: int
    refusals: Mapping[str, int]
    gone: int
    cancelled: int
