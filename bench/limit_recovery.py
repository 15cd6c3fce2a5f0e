"""How soon a limit is itself again after a storm whose callers retry, beside one that knows more.

Run it with `python bench/limit_recovery.py`; it takes about a minute, in virtual time. 5 s at five
times the capacity, then 0.8 times; all callers try 4 times, over 0.7 s. The retries of the storm
outlast it, so no limit can serve all attempts soon after. `told` keeps its queue short until a
given time after the storm and lets wait as long as `Limiter` does under overload from then on.
"""

# ruff: noqa: T201

import asyncio
import statistics
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.limit.overload import CAPACITY, SERVICE, SLOTS, Gate, Storm, run_storm

from stormproof.errors import LimitExceeded
from stormproof.limit import Limiter

SEEDS = range(1, 9)
STORM = 5.0
SHARE = 0.98


class Told:
    """Ten slots and a queue that may take 0.02 s, and 0.1 s `seconds` after the first call."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.first_at: float | None = None
        self.free = SLOTS
        self.queue: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot, or raise at once when the queue is too long."""
        loop = asyncio.get_running_loop()
        if self.first_at is None:
            self.first_at = loop.time()
        if self.free > 0:
            self.free -= 1
        else:
            most = 0.02 if loop.time() < self.first_at + self.seconds else 0.1
            if (len(self.queue) + 1) * SERVICE / SLOTS > most:
                raise LimitExceeded("told")
            place = loop.create_future()
            self.queue.append(place)
            await place
        try:
            yield
        finally:
            if self.queue:
                self.queue.popleft().set_result(None)
            else:
                self.free += 1


def recovered(calls: list[tuple[float, bool]]) -> float:
    """Return the first time from which on the wanted share of all that come is served."""
    since, bad = 0.0, 0
    for count, (came, is_good) in enumerate(sorted(calls, reverse=True), 1):
        bad += not is_good
        if count > 50 and bad > (1 - SHARE) * count:
            return since
        since = came
    return 0.0


def measure(name: str, make: Callable[[], Gate]) -> None:
    """Print after how many seconds callers are served again, and how many for all attempts."""
    attempts, callers = list[float](), list[float]()
    for seed in SEEDS:
        storm = Storm(make(), tries=4, seed=seed)
        _, calm_at, end = run_storm(storm, (5 * CAPACITY, STORM), (0.8 * CAPACITY, 2.5))
        calls = [(c.arrived_at, c.is_good) for c in storm.calls]
        for times, came in ((attempts, calls), (callers, storm.callers)):
            times.append(recovered([(t - calm_at, good) for t, good in came if calm_at <= t < end]))
    print(f"  {name:18} attempts {shown(attempts)}, callers {shown(callers)}", flush=True)


def shown(values: list[float]) -> str:
    """Return the median of some seconds, and their range."""
    return f"{statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    print(f"{SHARE:.0%} are served again after, {len(SEEDS)} runs: median (lowest to highest)")
    measure("Limiter", lambda: Limiter(SLOTS).slot)
    for after in (0.4, 0.5, 0.6):
        measure(f"told after {after} s", lambda after=after: Told(STORM + after).slot)
