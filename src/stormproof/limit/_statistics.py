"""What a limiter tells about itself."""

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
