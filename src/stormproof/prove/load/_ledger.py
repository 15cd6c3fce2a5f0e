"""The ledger: a row for every request of an attack, in the order in which they ended."""

import time
from dataclasses import dataclass
from itertools import count

from stormproof.prove._recording import Request


class Ledger:
    """Every request of one attack, and the attack's clock.

    Attributes:
        zero: Of the recording, on the machine's monotonic clock.
        rows: What has ended so far; what is still under way has no row yet.
    """

    def __init__(self, zero: float) -> None:
        self.zero = zero
        self.rows: list[Request] = []
        self._ids = count(1)
        self._connections = count(1)

    def now(self) -> float:
        """Return the recording's time, in seconds."""
        return time.monotonic() - self.zero

    def aside(self) -> "Ledger":
        """Return a ledger of its own that shares the clock and the numbers.

        For requests that are not recorded: the agent tells of them too, and their numbers must
        not be those of others.
        """
        aside = Ledger(self.zero)
        aside._ids, aside._connections = self._ids, self._connections
        return aside

    def next_id(self) -> int:
        """Return a number that no other request of this ledger has."""
        return next(self._ids)

    def next_connection(self) -> int:
        """Return a number that no other connection of this ledger has."""
        return next(self._connections)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """How well the generator itself did in one run of a load.

    Attributes:
        wanted_rate: Requests per second that were asked for; a closed loop wants what it sent.
        sent_rate: Requests per second that were really sent.
        is_bottleneck: Whether the generator, not the app, set the pace: it sent less than 95 %
            of what was wanted, or one in a hundred later than 50 ms.
        late_p99: Lateness of sendings against the schedule, in seconds; of a closed loop, that
            of the generator's event loop.
    """

    wanted_rate: float
    sent_rate: float
    is_bottleneck: bool
    late_p99: float


def percentile(values: list[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of the values lie; 0.0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
