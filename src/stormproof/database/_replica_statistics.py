"""The numbers of a replica."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ReplicaStatistics:
    """One replica at one moment.

    Attributes:
        place: Host, port and name of its database.
        state: "up" (reads go to it), "lagging" (it answers, and may be further behind than
            `max_lag`), or "down".
        lag: Seconds it is behind at most, or None when that is not known.
        reads: How often it was given to a reader, since the start.
        in_use: Connections checked out now.
        waiting: Readers waiting for one of its connections now.
        timeouts: Waits that ended without a connection, since the start.
    """

    place: str
    state: Literal["up", "lagging", "down"]
    lag: float | None
    reads: int
    in_use: int
    waiting: int
    timeouts: int
