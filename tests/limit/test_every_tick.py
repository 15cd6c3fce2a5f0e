"""A cancellation in every tick around what ends a wait: nothing is lost, nothing is swallowed."""

import asyncio
from collections.abc import Callable
from itertools import product

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


async def stay(limiter: Limiter, key: str | None, until: asyncio.Event) -> None:
    async with limiter.slot(key, work="stay"):
        await until.wait()


@pytest.mark.parametrize("key", [None, "a"])
@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_lost_or_swallowed(end: str, key: str | None) -> None:
    """Each waiter, once and twice, is cancelled in each tick before and after its wait ends."""

    async def main() -> None:
        for victim, offset, times in product(range(3), range(-6, 9), (1, 2)):
            await play(end, key, victim, offset, times)

    run_virtually(main())


async def play(end: str, key: str | None, victim: int, offset: int, times: int) -> None:
    """Cancel `victim` `offset` ticks after (before, if negative) something ends the wait."""
    limiter = Limiter(1, per_key=1)
    leave, never = asyncio.Event(), asyncio.Event()
    holder = asyncio.create_task(stay(limiter, key, leave))
    waiters = [asyncio.create_task(stay(limiter, key, never)) for _ in range(3)]
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


async def settle(
    limiter: Limiter, leave: asyncio.Event, never: asyncio.Event, tasks: "list[asyncio.Task[None]]"
) -> None:
    """Let everybody go; all slots and places must be there again, and every task accounted for."""
    leave.set()
    never.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    now = limiter.statistics()
    assert (now.in_use, now.waiting, now.keys) == (0, 0, 0)
    assert now.admitted + now.shed + now.cancelled == len(tasks)
    allowed = (type(None), LimitExceeded, asyncio.CancelledError)
    assert all(isinstance(result, allowed) for result in ended)
    if not limiter._is_closed:
        for _ in range(limiter.capacity):
            await asyncio.wait_for(limiter.slot().__aenter__(), 0.001)
