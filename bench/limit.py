"""What a free slot costs: enter + exit of Limiter against asyncio.Semaphore.

Run it with `python bench/limit.py`; it takes about 5 s. Both are timed in turns in one
process, so that a busy machine slows both; the ratio is taken pair by pair.
"""

# ruff: noqa: T201

import asyncio
import platform
import statistics
from contextlib import AbstractAsyncContextManager
from time import thread_time_ns

from stormproof._core.deadline import Deadline, in_force
from stormproof.limit import Limiter

PAIRS = 300
CALLS = 1_000
TARGET = 0.6


async def semaphore_ns(semaphore: AbstractAsyncContextManager[None]) -> float:
    """Return the nanoseconds of one enter + exit."""
    began = thread_time_ns()
    for _ in range(CALLS):
        async with semaphore:
            pass
    return (thread_time_ns() - began) / CALLS


async def limiter_ns(limiter: Limiter) -> float:
    """Return the nanoseconds of one `slot()` + enter + exit."""
    began = thread_time_ns()
    for _ in range(CALLS):
        async with limiter.slot():
            pass
    return (thread_time_ns() - began) / CALLS


def summary(values: list[float], digits: int) -> str:
    """Return "median (first quartile to third quartile)"."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


async def compare(label: str) -> float:
    """Print the costs of both in turns; return the median ratio."""
    semaphore, limiter = asyncio.Semaphore(10), Limiter(10)
    await semaphore_ns(semaphore)
    await limiter_ns(limiter)
    pairs = [(await semaphore_ns(semaphore), await limiter_ns(limiter)) for _ in range(PAIRS)]
    ratios = [mine / theirs for theirs, mine in pairs]
    print(f"{label}, {PAIRS} pairs of {CALLS} calls, median (quartiles):")
    print(f"  asyncio.Semaphore  {summary([theirs for theirs, _ in pairs], 0)} ns")
    print(f"  Limiter.slot()     {summary([mine for _, mine in pairs], 0)} ns")
    print(f"  ratio              {summary(ratios, 2)}, all {min(ratios):.2f} to {max(ratios):.2f}")
    return statistics.median(ratios)


async def main() -> None:
    """Compare outside of any deadline, which is the target, and inside one."""
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}")
    ratio = await compare("free slot, no deadline")
    print(f"  target <= {TARGET}: {'met' if ratio <= TARGET else 'MISSED'}")
    with in_force(Deadline(asyncio.get_running_loop().time() + 600)):
        await compare("free slot, inside a deadline")


if __name__ == "__main__":
    asyncio.run(main())
