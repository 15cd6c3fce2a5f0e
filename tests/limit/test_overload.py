"""The limiter under loads that are too high, in virtual time: goodput, waits, recovery, bursts."""

import asyncio

import pytest

from stormproof._core.deadline import Deadline, in_force
from stormproof.limit import Limiter
from tests.virtual_time import LoopClock, run_virtually

from .overload import CAPACITY, PATIENCE, SERVICE, SLOTS, Storm, percentile, run_storm


@pytest.mark.parametrize("times", [2, 5])
def test_overload_keeps_the_whole_capacity_useful(times: float) -> None:
    """At least 0.96 of the capacity, no work for callers who left, and short waits."""
    limiter = Limiter(SLOTS)
    storm = Storm(limiter.slot)
    start, end = run_storm(storm, (times * CAPACITY, 5.0))
    assert storm.good(start, end) / (end - start) >= 0.96 * CAPACITY
    assert storm.wasted == 0
    assert set(limiter.statistics().refusals) == {"target"}


def test_almost_all_who_are_served_have_waited_little_from_the_beginning_on() -> None:
    """The overload may be a burst at first; what that costs is over in its first tenths."""
    storm = Storm(Limiter(SLOTS).slot)
    start, _ = run_storm(storm, (5 * CAPACITY, 20.0))
    assert percentile(storm.waits(start), 0.99) <= 0.19
    assert percentile(storm.waits(start), 1.0) <= 0.5


def test_the_same_overload_makes_a_semaphore_collapse() -> None:
    """If this fails, the test above proves nothing any more."""
    semaphore = asyncio.Semaphore(SLOTS)
    storm = Storm(lambda: semaphore)
    start, end = run_storm(storm, (5 * CAPACITY, 5.0))
    assert storm.good(start, end) / (end - start) < 0.3 * CAPACITY
    assert storm.wasted > 400


@pytest.mark.parametrize("capacity", [1, 2, 10, 50])
@pytest.mark.parametrize("service", [0.05, 0.4])
def test_slots_do_not_run_dry_while_callers_are_turned_away(capacity: int, service: float) -> None:
    """Also where a single call takes longer than the target, the queue never closes wholly."""
    storm = Storm(Limiter(capacity).slot, service=service)
    rate = capacity / service
    start, end = run_storm(storm, (2.5 * rate, max(2.0, min(20.0, 600 / rate))))
    assert storm.good(start, end) / (end - start) >= 0.9 * rate
    assert storm.wasted == 0


@pytest.mark.parametrize(("tries", "settled", "seed"), [(1, 0.5, 1), (4, 1.0, 1), (4, 1.0, 2)])
def test_service_is_itself_again_soon_after_a_spike(tries: int, settled: float, seed: int) -> None:
    """5 s at five times the capacity, then 0.8 times; callers that try 4 times do it for 0.7 s."""
    storm = Storm(Limiter(SLOTS).slot, tries=tries, seed=seed)
    _, calm_at, end = run_storm(storm, (5 * CAPACITY, 5.0), (0.8 * CAPACITY, 2.5))
    calm = [is_good for came_at, is_good in storm.callers if calm_at + settled <= came_at < end]
    assert len(calm) > 100
    assert sum(calm) >= 0.98 * len(calm)


def test_a_burst_is_served_although_it_has_to_wait() -> None:
    """100 calls at once each second, half of what the resource can do on average."""
    storm = Storm(Limiter(SLOTS).slot)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                for _ in range(100):
                    group.create_task(storm.call())
                await asyncio.sleep(1.0)

    run_virtually(main())
    assert len(storm.calls) == 500
    assert sum(call.is_good for call in storm.calls) >= 0.88 * 500


def test_most_refusals_come_on_arrival() -> None:
    """The timer of a waiter is a backstop: a refusal costs neither a wait nor a wake-up."""
    storm = Storm(Limiter(SLOTS).slot)
    run_storm(storm, (5 * CAPACITY, 3.0))
    shed = [call for call in storm.calls if call.done_at is None]
    at_once = [call for call in shed if call.told_at == call.arrived_at]
    assert len(at_once) >= 0.99 * len(shed) > 1500


def test_callers_with_a_deadline_are_let_in_only_when_the_work_fits_in_it() -> None:
    """With 0.15 s for wait and work of 0.05 s, nobody starts that would not be done in time."""
    limiter, in_time, too_late = Limiter(SLOTS), 0, 0

    async def hurried() -> None:
        nonlocal in_time, too_late
        clock = LoopClock()
        deadline = Deadline(clock.now() + 0.15, clock=clock)
        with in_force(deadline):
            if await storm.attempt():
                in_time += deadline.remaining() >= 0.0
                too_late += deadline.remaining() < 0.0

    storm = Storm(limiter.slot)
    storm.call = hurried  # type: ignore[method-assign]
    start, end = run_storm(storm, (5 * CAPACITY, 3.0))
    assert in_time / (end - start) >= 0.9 * CAPACITY
    assert too_late <= 0.05 * in_time
    assert limiter.statistics().refusals["deadline"] > 1000


def test_a_resource_that_hangs_is_noticed_before_it_lets_go() -> None:
    """Nothing is released, so nothing new is measured; newcomers are turned away all the same."""
    limiter, stuck = Limiter(SLOTS), asyncio.Event()

    async def call() -> None:
        async with limiter.slot():
            await stuck.wait()

    async def main() -> None:
        storm = Storm(limiter.slot)
        await storm.offer(2 * CAPACITY, 2.0)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call()) for _ in range(SLOTS + 20)]
            await asyncio.sleep(0.4)
            waiting = limiter.statistics().waiting
            late = Storm(limiter.slot)
            await late.attempt()
            assert waiting == 20
            assert late.calls[0].told_at == late.calls[0].arrived_at
            for task in tasks:
                task.cancel()

    run_virtually(main())


def test_a_slow_past_is_forgotten_when_the_resource_is_fast_again() -> None:
    """Whoever would be first may always wait, so there is always something to measure."""
    limiter = Limiter(1)
    slow, fast = Storm(limiter.slot, service=2.0), Storm(limiter.slot, service=0.01)

    async def main() -> None:
        await slow.offer(4.0, 30.0)
        await fast.offer(80.0, 10.0)

    run_virtually(main())
    assert (limiter.statistics().hold or 9.0) < 0.02
    assert sum(call.is_good for call in fast.calls[100:]) >= 0.95 * len(fast.calls[100:])


def test_the_waiting_time_that_is_promised_is_kept() -> None:
    """The prediction is not far off: who is let wait is served within what was allowed."""
    limiter = Limiter(SLOTS, max_wait=0.3, target_wait=0.3)
    storm = Storm(limiter.slot)
    start, _ = run_storm(storm, (3 * CAPACITY, 6.0))
    waits = storm.waits(start + 0.5)
    assert 0.3 <= percentile(waits, 0.5) <= percentile(waits, 1.0) <= 0.3 + SERVICE * 1.2 + 0.01
    assert percentile(waits, 1.0) < PATIENCE
