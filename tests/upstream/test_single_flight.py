import asyncio

import pytest

from stormproof._core.deadline import Deadline, in_force
from stormproof.errors import DeadlineExceeded, InvalidSetting, UpstreamFailed, UpstreamTimeout
from stormproof.upstream import SingleFlight
from tests.virtual_time import LoopClock, run_virtually, ticks

from .source import Source


def test_those_who_ask_at_once_share_one_call() -> None:
    source = Source()

    async def main() -> None:
        flights: SingleFlight[int] = SingleFlight()
        results = await asyncio.gather(*(flights.do("a", source.fetch) for _ in range(5)))
        assert results == [1] * 5
        assert flights.flying == 0
        assert await flights.do("a", source.fetch) == 2

    run_virtually(main())


def test_other_keys_fly_by_themselves() -> None:
    source = Source()

    async def main() -> None:
        flights: SingleFlight[int] = SingleFlight()
        results = await asyncio.gather(*(flights.do(key, source.fetch) for key in "ab"))
        assert sorted(results) == [1, 2]

    run_virtually(main())


def test_failure_is_raised_for_all_and_the_next_call_tries_again() -> None:
    source = Source(error=ValueError("no"))

    async def main() -> None:
        flights: SingleFlight[int] = SingleFlight()
        results = await asyncio.gather(
            *(flights.do("a", source.fetch) for _ in range(3)), return_exceptions=True
        )
        assert [type(result) for result in results] == [ValueError] * 3
        source.error = None
        assert await flights.do("a", source.fetch) == 2

    run_virtually(main())


def test_cancelled_leader_does_not_fail_its_followers() -> None:
    source = Source()

    async def main() -> None:
        flights: SingleFlight[int] = SingleFlight()
        leader = asyncio.create_task(flights.do("a", source.fetch))
        await ticks()
        followers = [asyncio.create_task(flights.do("a", source.fetch)) for _ in range(3)]
        await asyncio.sleep(0.5)
        leader.cancel()
        assert await asyncio.gather(*followers) == [1] * 3
        assert leader.cancelled()
        assert source.calls == 1

    run_virtually(main())


def test_flight_that_nobody_waits_for_is_cancelled_and_awaited() -> None:
    source = Source(60.0)

    async def main() -> None:
        flights: SingleFlight[int] = SingleFlight()
        callers = [asyncio.create_task(flights.do("a", source.fetch)) for _ in range(3)]
        await asyncio.sleep(0.5)
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
        assert (source.running, flights.flying) == (0, 0)
        assert len(asyncio.all_tasks()) == 1

    run_virtually(main())


def test_flight_has_a_deadline_of_its_own_and_its_caller_one_too() -> None:
    source = Source(5.0)

    async def main() -> None:
        clock = LoopClock()
        flights: SingleFlight[int] = SingleFlight(timeout=8.0)
        with in_force(Deadline(clock.now() + 1.0, clock=clock)):
            hurried = asyncio.create_task(flights.do("a", source.fetch))
        await ticks()
        patient = asyncio.create_task(flights.do("a", source.fetch))
        with pytest.raises(DeadlineExceeded, match="'a'"):
            await hurried
        assert clock.now() == pytest.approx(1001.0)
        assert await patient == 1
        assert source.told == [pytest.approx(8.0)]

    run_virtually(main())


def test_flight_that_takes_too_long_is_a_timeout_for_all() -> None:
    source = Source(60.0)

    async def main() -> None:
        flights: SingleFlight[int] = SingleFlight(timeout=2.0, name="prices")
        results = await asyncio.gather(
            *(flights.do("a", source.fetch) for _ in range(2)), return_exceptions=True
        )
        assert [type(result) for result in results] == [UpstreamTimeout] * 2
        assert "'a' of 'prices' was not done in 2.000 s" in str(results[0])
        assert source.running == 0

    run_virtually(main())


def test_timeout_error_of_the_call_is_not_taken_for_the_flights() -> None:
    source = Source(error=TimeoutError("of the source"))

    async def main() -> None:
        flights: SingleFlight[int] = SingleFlight()
        with pytest.raises(TimeoutError, match="of the source"):
            await flights.do("a", source.fetch)

    run_virtually(main())


def test_passed_deadline_begins_no_flight() -> None:
    source = Source()

    async def main() -> None:
        clock = LoopClock()
        flights: SingleFlight[int] = SingleFlight()
        with in_force(Deadline(clock.now() - 1.0, clock=clock)), pytest.raises(DeadlineExceeded):
            await flights.do("a", source.fetch)
        assert source.calls == 0

    run_virtually(main())


def test_close_fails_those_who_wait_and_leaves_no_task() -> None:
    source = Source(60.0)

    async def main() -> None:
        async with SingleFlight[int]() as flights:
            waiting = asyncio.create_task(flights.do("a", source.fetch))
            await ticks()
        with pytest.raises(UpstreamFailed, match="cancelled"):
            await waiting
        assert source.running == 0
        assert len(asyncio.all_tasks()) == 1

    run_virtually(main())


@pytest.mark.parametrize("after", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("more_ticks", range(8))
@pytest.mark.parametrize("who", ["leader", "follower", "both"])
def test_cancelled_at_any_tick_the_others_are_served(
    after: float, more_ticks: int, who: str
) -> None:
    source = Source()

    async def main() -> None:
        flights: SingleFlight[int] = SingleFlight()
        leader = asyncio.create_task(flights.do("a", source.fetch))
        follower = asyncio.create_task(flights.do("a", source.fetch))
        await asyncio.sleep(after)
        await ticks(more_ticks)
        for name, task in (("leader", leader), ("follower", follower)):
            if who in (name, "both"):
                task.cancel()
        await asyncio.wait([leader, follower])
        if who != "both":
            stayed = follower if who == "leader" else leader
            assert stayed.result() == 1
        assert (source.running, flights.flying) == (0, 0)
        assert len(asyncio.all_tasks()) == 1

    run_virtually(main())


@pytest.mark.parametrize("timeout", [0, -1.0, float("inf")])
def test_unusable_timeout_is_named(timeout: float) -> None:
    with pytest.raises(InvalidSetting, match="timeout"):
        SingleFlight(timeout=timeout)
