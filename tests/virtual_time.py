"""Helpers for tests in virtual time: the loop's clock, a stall, and a few ticks."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from stormproof.testing import run_in_virtual_time

T = TypeVar("T")


class LoopClock:
    """The `Clock` that reads the running loop's time."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a new virtual loop; time passes only in its sleeps."""
    return run_in_virtual_time(main)


def stall(seconds: float) -> None:
    """Let time pass while nothing else can run, as a blocking call does."""
    loop: Any = asyncio.get_running_loop()
    loop.clock.turn(seconds)


async def ticks(count: int = 5) -> None:
    """Let every task that can go on do so."""
    for _ in range(count):
        await asyncio.sleep(0)
