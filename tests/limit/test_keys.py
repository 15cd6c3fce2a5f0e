"""Priorities and keys: who is shed first, and that nobody starves for the sake of another."""

import asyncio

import pytest

from stormproof.errors import InvalidSetting, LimitExceeded
from stormproof.limit import Limiter
from tests.virtual_time import run_virtually, ticks

from .overload import CAPACITY, SLOTS, Storm, percentile


async def stay(
    limiter: Limiter, key: str | None, until: asyncio.Event, inside: list[str | None]
) -> None:
    async with limiter.slot(key=key):
        inside.append(key)
        await until.wait()


def test_under_overload_lower_priorities_are_shed_first() -> None:
    """0.7 of the capacity matters, and ten times as much does not."""
    limiter = Limiter(SLOTS)
    important, other = Storm(limiter.slot), Storm(lambda: limiter.slot(priority=2), seed=2)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(important.offer(0.7 * CAPACITY, 6.0))
            group.create_task(other.offer(7 * CAPACITY, 6.0))

    run_virtually(main())
    served = sum(call.is_good for call in important.calls)
    assert served >= 0.97 * len(important.calls) > 600
    assert sum(call.is_good for call in other.calls) >= 0.25 * 6.0 * CAPACITY
    assert limiter.statistics().refusals["priority"] > 1000


def test_a_priority_says_so_when_it_is_the_reason() -> None:
    async def main() -> None:
        limiter, leave, inside = Limiter(1), asyncio.Event(), list[str | None]()
        tasks = [asyncio.create_task(stay(limiter, None, leave, inside)) for _ in range(7)]
        await ticks()
        with pytest.raises(LimitExceeded, match="more important callers") as caught:
            await limiter.slot(priority=1).__aenter__()
        assert caught.value.reason == "priority"
        leave.set()
        await asyncio.gather(*tasks)

    run_virtually(main())


def test_a_flood_from_one_key_does_not_delay_the_others() -> None:
    limiter = Limiter(SLOTS)
    flood = Storm(lambda: limiter.slot(key="flood"))
    small = [Storm(lambda n=n: limiter.slot(key=n), seed=n) for n in range(2, 6)]  # type: ignore[misc]

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(flood.offer(5 * CAPACITY, 5.0))
            for storm in small:
                group.create_task(storm.offer(0.1 * CAPACITY, 5.0))

    run_virtually(main())
    for storm in small:
        assert sum(call.is_good for call in storm.calls) >= 0.99 * len(storm.calls) > 50
        assert percentile(storm.waits(0.0), 0.99) < 0.12
    assert sum(call.is_good for call in flood.calls) >= 0.5 * 5.0 * CAPACITY
    assert limiter.statistics().keys == 0


async def test_slots_go_to_the_keys_in_turn() -> None:
    limiter, leave, inside = Limiter(1), asyncio.Event(), list[str | None]()
    leave.set()
    async with limiter.slot():
        calls = [asyncio.create_task(stay(limiter, key, leave, inside)) for key in "aaaabbc"]
        await ticks()
    await asyncio.gather(*calls)
    assert "".join(map(str, inside)) == "abcabaa"


async def test_a_key_holds_no_more_than_its_own_limit_and_leaves_the_rest_to_others() -> None:
    limiter, leave, inside = Limiter(3, per_key=2), asyncio.Event(), list[str | None]()
    calls = [asyncio.create_task(stay(limiter, key, leave, inside)) for key in "aaaab"]
    await ticks()
    assert "".join(map(str, inside)) == "aab"
    assert (limiter.statistics().waiting, limiter.statistics().keys) == (2, 2)
    leave.set()
    await asyncio.gather(*calls)
    assert "".join(map(str, inside)) == "aabaa"
    assert (limiter.statistics().in_use, limiter.statistics().keys) == (0, 0)


async def test_a_full_key_does_not_keep_a_free_slot_from_callers_without_one() -> None:
    limiter, leave, inside = Limiter(2, per_key=1), asyncio.Event(), list[str | None]()
    calls = [asyncio.create_task(stay(limiter, "a", leave, inside)) for _ in range(2)]
    await ticks()
    async with asyncio.timeout(1.0), limiter.slot():
        assert limiter.statistics().in_use == 2
    assert inside == ["a"]
    leave.set()
    await asyncio.gather(*calls)
    assert inside == ["a", "a"]


def test_keys_that_come_and_give_up_leave_nothing_behind() -> None:
    """While a resource hangs, ten thousand keys wait in turn, each until its time is over."""

    async def main() -> None:
        limiter, never = Limiter(1, max_wait=0.5), asyncio.Event()
        holder = asyncio.create_task(stay(limiter, "held", never, []))
        await ticks()
        for start in range(0, 10_000, 5):
            calls = [limiter.slot(key=start + n).__aenter__() for n in range(5)]
            ended = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(error, LimitExceeded) for error in ended)
        assert limiter.statistics().keys == 1
        assert len(limiter._queue._ring) <= 200
        never.set()
        await holder

    run_virtually(main())


def test_a_priority_below_the_first_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidSetting, match=r"^slot\(priority=-1\) must be"):
        Limiter(1).slot(priority=-1)
    with pytest.raises(InvalidSetting, match=r"^Limiter\(per_key=0\) must be"):
        Limiter(1, per_key=0)
