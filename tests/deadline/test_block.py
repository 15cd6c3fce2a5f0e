"""`deadline(seconds)`: what is inside ends in time or raises, and nothing foreign is touched."""

import asyncio
import math
from typing import Any

import pytest

from stormproof._core.deadline import Deadline, in_force
from stormproof.deadline import deadline, remaining
from stormproof.errors import DeadlineExceeded, InvalidSetting

from .stage import LoopClock, run_virtual

CLOCK = LoopClock()


def test_in_time_nothing_happens() -> None:
    async def main() -> None:
        async with deadline(1.0, clock=CLOCK) as limit:
            await asyncio.sleep(0.4)
            assert remaining() == pytest.approx(0.6)
            assert limit.remaining() == remaining()
        assert remaining() is None

    run_virtual(main())


@pytest.mark.parametrize("seconds", [0, 0.5])
def test_when_it_passes_the_block_is_cancelled_and_raises(seconds: float) -> None:
    async def main() -> None:
        started = CLOCK.now()
        with pytest.raises(DeadlineExceeded, match=f"{seconds:g} s") as caught:
            async with deadline(seconds, clock=CLOCK):
                await asyncio.sleep(math.inf)
        assert isinstance(caught.value, TimeoutError)
        assert CLOCK.now() - started == seconds
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]

    run_virtual(main())


def test_a_late_result_raises_where_asyncio_timeout_returns_it() -> None:
    async def late() -> str:
        try:
            await asyncio.sleep(math.inf)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
        return "late"

    async def main() -> None:
        async with asyncio.timeout(0.5):
            assert await late() == "late"
        with pytest.raises(DeadlineExceeded, match=r"ended after 1\.500 s"):
            async with deadline(0.5, clock=CLOCK):
                await late()
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]

    run_virtual(main())


def test_a_block_that_never_waited_but_took_too_long_raises() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with pytest.raises(DeadlineExceeded):
            async with deadline(0.5, clock=CLOCK):
                loop.virtual.now += 1  # as a blocking call does

    run_virtual(main())


def test_the_nearer_of_two_blocks_counts_and_raises_at_its_own_end() -> None:
    async def main() -> None:
        caught: list[BaseException] = []

        async def work() -> None:
            async with deadline(0.5, clock=CLOCK):
                try:
                    async with deadline(2.0, clock=CLOCK):
                        assert remaining() == 0.5
                        await asyncio.sleep(math.inf)
                except BaseException as error:
                    caught.append(error)
                    raise

        with pytest.raises(DeadlineExceeded):
            await work()
        assert [type(error) for error in caught] == [asyncio.CancelledError]
        async with deadline(2.0, clock=CLOCK):
            with pytest.raises(DeadlineExceeded):
                async with deadline(0.5, clock=CLOCK):
                    await asyncio.sleep(math.inf)
            assert remaining() == 1.5

    run_virtual(main())


def test_a_deadline_that_is_only_stated_around_it_limits_the_block_too() -> None:
    async def main() -> None:
        with in_force(Deadline(CLOCK.now() + 0.5, clock=CLOCK)), pytest.raises(DeadlineExceeded):
            async with deadline(math.inf, clock=CLOCK):
                await asyncio.sleep(math.inf)

    run_virtual(main())


def test_shortening_and_lifting_move_the_timer() -> None:
    async def main() -> None:
        started = CLOCK.now()

        async def work() -> None:
            async with deadline(5, clock=CLOCK) as limit:
                limit.shorten(started + 1)
                await asyncio.sleep(math.inf)

        with pytest.raises(DeadlineExceeded):
            await work()
        assert CLOCK.now() == started + 1
        async with deadline(1, clock=CLOCK) as limit:
            limit.lift()
            await asyncio.sleep(5)

    run_virtual(main())


@pytest.mark.parametrize("error", [TimeoutError("mine"), ValueError(), asyncio.CancelledError()])
def test_foreign_errors_pass_untouched(error: BaseException) -> None:
    async def main() -> None:
        with pytest.raises(type(error)) as caught:
            async with deadline(1, clock=CLOCK):
                raise error
        assert caught.value is error

    run_virtual(main())


def test_an_error_from_the_cleanup_passes_untouched_after_the_deadline() -> None:
    async def main() -> None:
        async def work() -> None:
            async with deadline(1, clock=CLOCK):
                try:
                    await asyncio.sleep(math.inf)
                finally:
                    raise ConnectionError

        with pytest.raises(ConnectionError):
            await work()
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]

    run_virtual(main())


@pytest.mark.parametrize("at", [0.5, 1.0, 1.2])
def test_a_foreign_cancellation_is_never_turned_into_a_timeout(at: float) -> None:
    async def main() -> None:
        async def work() -> None:
            async with deadline(1, clock=CLOCK):
                try:
                    await asyncio.sleep(math.inf)
                finally:
                    await asyncio.sleep(0.5)

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_at(CLOCK.now() + at, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    run_virtual(main())


@pytest.mark.parametrize("seconds", [-1, math.nan, -math.inf])
def test_negative_and_nan_are_refused(seconds: float) -> None:
    with pytest.raises(InvalidSetting, match="seconds="):
        deadline(seconds)


def test_outside_a_task_it_says_so() -> None:
    async def main() -> None:
        raised: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def callback() -> None:
            try:
                deadline(1).__aenter__().send(None)
            except RuntimeError as error:
                raised.set_result(str(error))

        asyncio.get_running_loop().call_soon(callback)
        assert "inside a task" in await raised

    run_virtual(main())
