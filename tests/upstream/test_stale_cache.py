import asyncio

import pytest

from stormproof._core.deadline import Deadline, in_force
from stormproof.errors import DeadlineExceeded, InvalidSetting, UpstreamTimeout
from stormproof.upstream import Cached, StaleCache
from tests.virtual_time import LoopClock, run_virtually, ticks

from .source import Source


def cache(**settings: float) -> StaleCache[int]:
    kept = {"fresh_for": 10.0, "stale_for": 60.0, **settings}
    return StaleCache(clock=LoopClock(), **kept)  # type: ignore[arg-type]


def test_fresh_value_is_given_without_asking_and_an_old_one_is_fetched_anew() -> None:
    source = Source(0.0)

    async def main() -> None:
        prices = cache()
        assert await prices.get("a", source.fetch) == Cached(1, 0.0)
        await asyncio.sleep(9.0)
        assert await prices.get("a", source.fetch) == Cached(1, 9.0)
        await asyncio.sleep(1.0)
        assert await prices.get("a", source.fetch) == Cached(2, 0.0)

    run_virtually(main())


def test_failed_refresh_gives_the_old_value_with_its_age_and_reason() -> None:
    source = Source(1.0)

    async def main() -> None:
        prices = cache()
        await prices.get("a", source.fetch)
        await asyncio.sleep(20.0)
        source.error = ValueError("down")
        stale = await prices.get("a", source.fetch)
        assert stale == Cached(1, 21.0, source.error)
        assert stale.is_stale
        source.error = None
        assert await prices.get("a", source.fetch) == Cached(3, 0.0)

    run_virtually(main())


def test_value_that_is_too_old_is_not_given() -> None:
    source = Source(0.0)

    async def main() -> None:
        prices = cache()
        await prices.get("a", source.fetch)
        await asyncio.sleep(70.0)
        source.error = ValueError("down")
        with pytest.raises(ValueError, match="down"):
            await prices.get("a", source.fetch)
        assert len(prices) == 0

    run_virtually(main())


def test_value_that_grows_too_old_in_the_refresh_is_not_given() -> None:
    source = Source(0.0)

    async def main() -> None:
        prices = cache()
        await prices.get("a", source.fetch)
        await asyncio.sleep(69.5)
        source.seconds, source.error = 1.0, ValueError("down")
        with pytest.raises(ValueError, match="down"):
            await prices.get("a", source.fetch)

    run_virtually(main())


def test_slow_refresh_gives_the_old_value_when_its_time_or_the_callers_is_over() -> None:
    source = Source(0.0)

    async def main() -> None:
        clock = LoopClock()
        prices = cache(timeout=3.0)
        await prices.get("a", source.fetch)
        await asyncio.sleep(20.0)
        source.seconds = 60.0
        assert isinstance((await prices.get("a", source.fetch)).error, UpstreamTimeout)
        with in_force(Deadline(clock.now() + 1.0, clock=clock)):
            stale = await prices.get("a", source.fetch)
        assert isinstance(stale.error, DeadlineExceeded)
        assert stale.age == pytest.approx(24.0)
        assert source.running == 0

    run_virtually(main())


def test_many_share_one_refresh_and_one_failure() -> None:
    source = Source(1.0)

    async def main() -> None:
        prices = cache()
        await asyncio.gather(*(prices.get("a", source.fetch) for _ in range(9)))
        await asyncio.sleep(20.0)
        source.error = ValueError("down")
        results = await asyncio.gather(*(prices.get("a", source.fetch) for _ in range(9)))
        assert [result.value for result in results] == [1] * 9
        assert source.calls == 2

    run_virtually(main())


def test_cancelled_leader_leaves_the_value_for_its_followers_and_later_ones() -> None:
    source = Source(1.0)

    async def main() -> None:
        prices = cache()
        leader = asyncio.create_task(prices.get("a", source.fetch))
        follower = asyncio.create_task(prices.get("a", source.fetch))
        await ticks()
        leader.cancel()
        assert (await follower).value == 1
        assert (await prices.get("a", source.fetch)).value == 1
        assert leader.cancelled()

    run_virtually(main())


def test_size_is_bounded_and_the_least_used_leaves_first() -> None:
    source = Source(0.0)

    async def main() -> None:
        prices = cache(max_entries=2)
        for key in ("a", "b", "a", "c", "a", "b"):
            await prices.get(key, source.fetch)
            assert len(prices) <= 2
        assert source.calls == 4  # a, b, c, and b once more

    run_virtually(main())


def test_forgotten_value_is_fetched_anew() -> None:
    source = Source(0.0)

    async def main() -> None:
        async with cache() as prices:
            await prices.get("a", source.fetch)
            prices.forget("a")
            prices.forget("unknown")
            assert (await prices.get("a", source.fetch)).value == 2

    run_virtually(main())


@pytest.mark.parametrize(
    "settings", [{"fresh_for": -1}, {"stale_for": float("inf")}, {"max_entries": 0}, {"timeout": 0}]
)
def test_unusable_cache_is_named(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(settings))):
        cache(**settings)
