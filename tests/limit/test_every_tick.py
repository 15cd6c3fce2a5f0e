"""A cancellation in every tick around what ends a wait: nothing is lost, nothing is swallowed."""

import asyncio
from collections.abc import Callable

import pytest

from stormproof.errors import LimitExceeded
from stormproof.limit import Limiter
from tests.virtual_time import run_virtually, stall, ticks

ENDS: dict[str, Callable[[Limiter, asyncio.Event], None]] = {
    "a release": lambda limiter, leave: leave.set(),
    "a new slot": lambda limiter, leave: limiter.resize(2),
    "closing": lambda limiter, leave: limiter.close(),
    "the end of max_wait": lambda limiter, leave: stall(limiter.max_wait),
}


async def stay(limiter: Limiter, until: asyncio.Event) -> None:
    async with limiter.slot():
        await until.wait()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("victim", range(3))
@pytest.mark.parametrize("offset", range(-6, 9))
@pytest.mark.parametrize("times", [1, 2])
def test_nothing_is_lost_or_swallowed(end: str, victim: int, offset: int, times: int) -> None:
    """`offset` ticks after (before, if negative) the wait of `victim` ends, it is cancelled."""

    async def main() -> None:
        limiter = Limiter(1)
        leave, never = asyncio.Event(), asyncio.Event()
        holder = asyncio.create_task(stay(limiter, leave))
        waiters = [asyncio.create_task(stay(limiter, never)) for _ in range(3)]
        await ticks()
        is_told = False
        for tick in range(-6, 10):
            if tick == 0:
                ENDS[end](limiter, leave)
            if tick == offset:
                is_told = waiters[victim].cancel()
            if tick == offset + 1 and times == 2:
                waiters[victim].cancel()
            await asyncio.sleep(0)
        assert not is_told or waiters[victim].cancelled(), "the cancellation was swallowed"
        await settle(limiter, leave, never, [holder, *waiters])

    run_virtually(main())


async def settle(
    limiter: Limiter, leave: asyncio.Event, never: asyncio.Event, tasks: "list[asyncio.Task[None]]"
) -> None:
    """Let everybody go; all slots and places must be there again, and every task accounted for."""
    leave.set()
    never.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    now = limiter.statistics()
    assert (now.in_use, now.waiting) == (0, 0)
    assert now.admitted + now.shed + now.cancelled == len(tasks)
    allowed = (type(None), LimitExceeded, asyncio.CancelledError)
    assert all(isinstance(result, allowed) for result in ended)
    if not limiter._is_closed:
        for _ in range(limiter.capacity):
            await asyncio.wait_for(limiter.slot().__aenter__(), 0.001)
