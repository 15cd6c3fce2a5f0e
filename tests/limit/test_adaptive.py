"""`Adaptive`: finds a capacity nobody knows, and is not misled by what says nothing about it."""

import asyncio
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormproof.errors import InvalidSetting, LimitExceeded
from stormproof.limit import Adaptive, Aimd, Limiter
from tests.virtual_time import run_virtually

WIDTH = 40
FASTEST = 0.1


class Resource:
    """Does 40 calls at once in 0.1 s each; more at once take longer, more than in proportion."""

    def __init__(self) -> None:
        self.inside = 0
        self.random = random.Random(3)

    async def work(self) -> None:
        self.inside += 1
        try:
            crowd = max(1.0, self.inside / WIDTH) ** 1.2
            await asyncio.sleep(FASTEST * crowd * self.random.uniform(0.8, 1.2))
        finally:
            self.inside -= 1


def served(limit: Adaptive | Limiter, *, seconds: float, rate: float = 800.0) -> int:
    """Return how many calls got through in the last three quarters of the time."""
    resource, count = Resource(), 0

    async def call(counts: bool) -> None:
        nonlocal count
        try:
            async with limit.slot():
                await resource.work()
        except LimitExceeded:
            return
        count += counts

    async def main() -> None:
        draw = random.Random(4)
        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                group.create_task(call(number > rate * seconds / 4))
                await asyncio.sleep(draw.expovariate(rate))

    run_virtually(main())
    return count


@pytest.mark.parametrize("start", [2, 10, 400])
def test_it_settles_near_the_right_capacity_from_any_start(start: int) -> None:
    adaptive = Adaptive(2 * FASTEST, start=start)
    got = served(adaptive, seconds=12.0)
    assert 30 <= adaptive.capacity <= 70
    assert got >= 0.9 * served(Limiter(WIDTH), seconds=12.0)


def test_slow_calls_of_one_crowd_lower_the_limit_once() -> None:
    aimd = Aimd(20.0, 1, 100, 0.1)
    for ended_at in (1.0, 1.01, 1.02):
        aimd = aimd.after(began_at=0.85, ended_at=ended_at, in_use=20)
    assert aimd.limit == pytest.approx(18.0)
    aimd = aimd.after(began_at=1.1, ended_at=1.25, in_use=18)
    assert aimd.limit == pytest.approx(16.2)
    aimd = aimd.after(began_at=1.3, ended_at=1.6, in_use=18)
    assert aimd.limit == pytest.approx(8.1)


def test_quick_calls_on_an_idle_resource_say_nothing() -> None:
    aimd = Aimd(20.0, 1, 100, 0.1)
    assert aimd.after(began_at=0.0, ended_at=0.01, in_use=9) is aimd
    assert aimd.after(began_at=0.0, ended_at=0.01, in_use=10).limit == pytest.approx(20.05)


@given(
    calls=st.lists(
        st.tuples(st.floats(0, 100), st.floats(0, 10), st.integers(1, 60), st.booleans())
    ),
    lowest=st.integers(1, 5),
    highest=st.integers(5, 50),
)
def test_the_limit_stays_in_its_range(
    calls: list[tuple[float, float, int, bool]], lowest: int, highest: int
) -> None:
    aimd = Aimd(5.0, lowest, highest, 0.5)
    for began_at, latency, in_use, has_timed_out in calls:
        aimd = aimd.after(
            began_at=began_at,
            ended_at=began_at + latency,
            in_use=in_use,
            has_timed_out=has_timed_out,
        )
        assert lowest <= aimd.limit <= highest
        assert aimd.cut_at < math.inf


def test_what_is_cancelled_or_fails_is_not_counted_and_what_runs_out_of_time_is() -> None:
    async def main() -> None:
        adaptive = Adaptive(0.1, start=10)

        async def slow(error: BaseException) -> None:
            async with adaptive.slot():
                await asyncio.sleep(1.0)
                raise error

        for error in (asyncio.CancelledError(), ValueError()):
            with pytest.raises(type(error)):
                await slow(error)
            assert adaptive.capacity == 10
        with pytest.raises(TimeoutError):
            await slow(TimeoutError())
        assert adaptive.capacity == 5
        task = asyncio.create_task(slow(ValueError()))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert adaptive.capacity == 5
        assert adaptive.statistics().in_use == 0
        adaptive.close()
        with pytest.raises(LimitExceeded):
            await adaptive.slot().__aenter__()

    run_virtually(main())


@pytest.mark.parametrize(
    "options",
    [
        {"target_latency": 0.0},
        {"target_latency": -1.0},
        {"target_latency": 0.1, "lowest": 0},
        {"target_latency": 0.1, "start": 3, "lowest": 4},
        {"target_latency": 0.1, "highest": 3, "lowest": 4},
    ],
)
def test_a_bad_number_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting, match=r"^Adaptive\(.*\) must be"):
        Adaptive(**options)  # type: ignore[arg-type]
