"""What must hold for a limiter whatever its callers do and whenever they do it."""

import asyncio
import math
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stormproof._core.deadline import Deadline, in_force
from stormproof.errors import DeadlineExceeded, LimitExceeded
from stormproof.limit import Limiter
from tests.virtual_time import LoopClock, run_virtually, stall, ticks

ARRIVALS = st.just(("arrive", None))
ACTIONS = st.one_of(
    ARRIVALS,
    ARRIVALS,
    ARRIVALS,
    st.tuples(st.just("arrive"), st.floats(0.0, 0.4)),  # with a deadline that many seconds away
    st.tuples(st.just("release"), st.integers(0, 9)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("cancel heir"), st.integers(0, 3)),
    st.tuples(st.just("pass time"), st.floats(0.0, 0.3)),
    st.tuples(st.just("stall"), st.floats(0.0, 0.3)),
    st.tuples(st.just("tick"), st.integers(1, 2)),
    st.tuples(st.just("resize"), st.integers(1, 4)),
)


@dataclass
class Crowd:
    """Numbered callers of one limiter, and who of them is inside."""

    limiter: Limiter
    is_keyed: bool = False
    inside: dict[int, asyncio.Event] = field(default_factory=dict)
    admitted: list[int] = field(default_factory=list)
    released: int = 0
    tasks: "list[asyncio.Task[None]]" = field(default_factory=list)

    def arrive(self, seconds: float | None) -> None:
        self.tasks.append(asyncio.create_task(self.call(len(self.tasks), seconds)))

    async def call(self, number: int, seconds: float | None) -> None:
        clock = LoopClock()
        deadline = None if seconds is None else Deadline(clock.now() + seconds, clock=clock)
        work = number % 4 if self.is_keyed else None
        slot = self.limiter.slot(self.key(number), number % 2 * self.is_keyed, work)
        with in_force(deadline):
            try:
                async with slot:
                    self.admitted.append(number)
                    assert deadline is None or deadline.remaining() > 0
                    self.inside[number] = asyncio.Event()
                    try:
                        await self.inside[number].wait()
                    finally:
                        del self.inside[number]
                        self.released += 1
            except (LimitExceeded, DeadlineExceeded):
                pass

    def key(self, number: int) -> str | None:
        return (None, "a", "b")[number % 3] if self.is_keyed else None

    async def act(self, action: str, value: float | None) -> None:
        if action == "arrive":
            self.arrive(value)
        elif action == "pass time":
            await asyncio.sleep(value or 0.0)
        elif action == "stall":
            stall(value or 0.0)
        elif action == "tick":
            await ticks(int(value or 0))
        elif action == "resize":
            self.limiter.resize(int(value or 0))
        elif action == "cancel" and self.tasks:
            self.tasks[int(value or 0) % len(self.tasks)].cancel()
        elif action == "release" and self.inside:
            number = sorted(self.inside)[int(value or 0) % len(self.inside)]
            self.inside[number].set()
        elif action == "cancel heir" and self.inside:
            await self.cancel_heir(int(value or 0))

    async def cancel_heir(self, after: int) -> None:
        """Release a slot and, some ticks later, cancel whoever waited longest for it."""
        waiting = [n for n, task in enumerate(self.tasks) if not task.done()]
        heir = next((n for n in waiting if n not in self.inside), None)
        next(iter(self.inside.values())).set()
        await ticks(after)
        if heir is not None:
            self.tasks[heir].cancel()

    def check_always(self, bound: int) -> None:
        now = self.limiter.statistics()
        assert len(self.inside) <= now.in_use <= bound
        assert 0 <= now.waiting <= bound * 10 + 3
        assert now.admitted + now.shed + now.cancelled + now.waiting <= len(self.tasks)

    def check_settled(self) -> None:
        """After some ticks everybody is either inside, in the queue or gone."""
        now = self.limiter.statistics()
        gone = {number for number, task in enumerate(self.tasks) if task.done()}
        waiting = set(range(len(self.tasks))) - gone - set(self.inside)
        assert (now.in_use, now.waiting) == (len(self.inside), len(waiting))
        for key in {self.key(number) for number in waiting}:
            held = sum(self.key(number) == key for number in self.inside)
            is_full = key is not None and held >= (self.limiter.per_key or math.inf)
            assert is_full or now.in_use >= now.capacity, "a slot is free and someone waits"
            first = min(number for number in waiting if self.key(number) == key)
            last = max((n for n in self.admitted if self.key(n) == key), default=-1)
            assert first > last, "overtaken"
        there = {self.key(n) for n in waiting | set(self.inside)} - {None}
        assert now.keys == len(there)
        assert waiting or self.limiter._queue.hold(7.0) == 7.0, "somebody gone is counted with"
        assert now.admitted == len(self.admitted) == self.released + now.in_use


# too_slow measures a busy machine, not the limiter.
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    capacity=st.integers(1, 4),
    target_wait=st.sampled_from([0.0, 0.05, 0.25]),
    per_key=st.none() | st.integers(1, 3),
    is_keyed=st.booleans(),
    schedule=st.lists(st.tuples(ACTIONS, st.booleans()), min_size=30, max_size=80),
)
def test_slots_and_places_balance_under_any_schedule(
    capacity: int,
    target_wait: float,
    per_key: int | None,
    is_keyed: bool,
    schedule: list[tuple[tuple[str, float | None], bool]],
) -> None:
    """In use never above the capacity, nobody overtaken, nothing lost, nothing left."""

    async def main() -> None:
        limiter = Limiter(capacity, target_wait=target_wait, max_wait=0.25, per_key=per_key)
        crowd = Crowd(limiter, is_keyed=is_keyed)
        bound = capacity
        for (action, value), is_settling in schedule:
            if action == "resize":
                bound = max(bound, int(value or 0))
            await crowd.act(action, value)
            crowd.check_always(bound)
            if is_settling:
                await ticks()
                crowd.check_settled()
        while crowd.inside or not all(task.done() for task in crowd.tasks):
            for leave in crowd.inside.values():
                leave.set()
            await asyncio.sleep(0.01)
        now = crowd.limiter.statistics()
        never_asked = sum(t.cancelled() for t in crowd.tasks) - now.cancelled
        assert (now.in_use, now.waiting) == (0, 0)
        assert now.admitted == crowd.released
        assert now.admitted + now.shed + now.cancelled <= len(crowd.tasks)
        assert now.admitted + now.shed + now.cancelled >= len(crowd.tasks) - never_asked
        await asyncio.gather(*crowd.tasks, return_exceptions=True)
        failures = [t.exception() for t in crowd.tasks if not t.cancelled()]
        assert failures == [None] * len(failures)

    run_virtually(main())
