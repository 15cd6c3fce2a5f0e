"""What a SIGTERM costs: requests failed, and seconds to the exit beyond what the work needed.

Run it from the project's root with `PYTHONPATH=. python bench/drain.py`; it takes about five
minutes. Each way of running the same app has its turns beside the stock server, on real processes
and sockets. The bars: 0 requests failed, an exit at most 0.5 s after lame duck and remaining
work, and at most 1 s after a second signal.
"""

# ruff: noqa: T201

import asyncio
import os
import statistics
import time
from signal import SIGTERM

from tests.faults.ways import GUNICORN, SERVE, UVICORN, UVICORN_WORKERS, Way, roll, running
from tests.harness import request, until

RUNS = 5
WAYS = (SERVE, UVICORN, UVICORN_WORKERS, GUNICORN)
LAME_DUCK = 2.0
LAG = 1.5
WORK = 2.5
"""Seconds that the request in flight takes; it is asked for just before the signal."""


async def roll_out(way: Way, **env: str) -> tuple[int, int, float]:
    """Return requests, failed ones, and the seconds to the exit beyond the lame duck."""
    async with running(way, STORMPROOF_PRESTOP=str(LAME_DUCK), **env) as (process, port):
        rolled = await roll(process, port, clients=30, requests=1000, lag=LAG)
        return rolled.requests, len(rolled.failed), rolled.seconds - LAME_DUCK


async def exit_after_work(way: Way) -> float:
    """Return the seconds between the last answer and the exit."""
    async with running(way, STORMPROOF_PRESTOP="0.5") as (process, port):
        slow = asyncio.create_task(request(port, "GET", f"/slow?seconds={WORK}", timeout=15.0))
        await asyncio.sleep(0)
        await request(port, "GET", "/quick")
        process.signal(SIGTERM)
        await slow
        answered_at = time.monotonic()
        await process.wait_exit()
        return time.monotonic() - answered_at


async def exit_after_second_signal(way: Way) -> float:
    """Return the seconds from the second signal to the exit, with a request of 60 s open."""
    async with running(way, STORMPROOF_PRESTOP="10") as (process, port):
        slow = asyncio.create_task(request(port, "GET", "/slow?seconds=60", timeout=90.0))
        await asyncio.sleep(0)
        await request(port, "GET", "/quick")
        process.signal(SIGTERM)

        async def is_draining() -> bool:
            return (await request(port, "GET", "/readyz")).status == 503

        await until(is_draining)
        process.signal(SIGTERM)
        again_at = time.monotonic()
        await process.wait_exit()
        took = time.monotonic() - again_at
        await slow
        return took


def spread(seconds: list[float]) -> str:
    """Return "median (least to most)"."""
    low, high = min(seconds), max(seconds)
    return f"{statistics.median(seconds):5.2f} s ({low:.2f} to {high:.2f})"


async def main() -> None:
    """Measure each way in turns with the stock server."""
    print(f"{RUNS} runs each, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for way in WAYS:
        ours = []
        stock = []
        for _ in range(RUNS):
            ours.append(await roll_out(way))
            if way is not SERVE:
                stock.append(await roll_out(way, STOCK="1"))
        print(f"{way}")
        print(f"  failed        {sum(one[1] for one in ours)} of {sum(one[0] for one in ours)}")
        if stock:
            failed = [one[1] for one in stock]
            print(f"  failed, stock {min(failed)} to {max(failed)} a roll-out")
        print(f"  exit after the lame duck of {LAME_DUCK:.0f} s   {spread([o[2] for o in ours])}")
        if way in (SERVE, UVICORN):
            after = [await exit_after_work(way) for _ in range(RUNS)]
            print(f"  exit after the last answer        {spread(after)}")
            again = [await exit_after_second_signal(way) for _ in range(RUNS)]
            print(f"  exit after a second signal        {spread(again)}")


if __name__ == "__main__":
    asyncio.run(main())
