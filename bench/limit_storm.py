"""Five times the load: what a limit keeps useful in real time, beside the seed and its peers.

Run by `python bench/limit.py storm`, or `storm all`. Ten slots, 0.05 s of work a call, calls that
come at random, callers that leave after 1 s and cancel nothing, as behind a plain endpoint. Each
gate has a fresh process and its own loop; all take their turns, and the whole round is repeated.
"""

# ruff: noqa: T201

import asyncio
import gc
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

SLOTS, SERVICE, PATIENCE, TIMES = 10, 0.05, 1.0, 5
BEAT = 0.005

Gate = Callable[[], AbstractAsyncContextManager[Any]]


class Resource:
    """The work itself, and what became of the calls."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.chance = random.Random(1)
        self.good = self.wasted = self.shed = 0
        self.waits: list[float] = []

    async def call(self) -> None:
        """Ask for a slot, work, and count whether the caller was still there."""
        came_at = perf_counter()
        try:
            async with self.gate():
                await asyncio.sleep(SERVICE * self.chance.uniform(0.8, 1.2))
        except Exception:
            self.shed += 1
            return
        took = perf_counter() - came_at
        self.waits.append(took)
        self.good += took <= PATIENCE
        self.wasted += took > PATIENCE

    async def capacity(self, seconds: float) -> float:
        """Return the calls a second that ten callers make who call again and again."""
        end_at = perf_counter() + seconds

        async def caller() -> int:
            count = 0
            while perf_counter() < end_at:
                await asyncio.sleep(SERVICE * self.chance.uniform(0.8, 1.2))
                count += 1
            return count

        return sum(await asyncio.gather(*(caller() for _ in range(SLOTS)))) / seconds

    async def offer(self, rate: float, seconds: float) -> set["asyncio.Task[None]"]:
        """Let calls come for a while, and return those that are not over then."""
        tasks: set[asyncio.Task[None]] = set()
        due_at = perf_counter()
        end_at = due_at + seconds
        while due_at < end_at:
            due_at += self.chance.expovariate(rate)
            if (pause := due_at - perf_counter()) > 0:
                await asyncio.sleep(pause)
            task = asyncio.create_task(self.call())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        return tasks


async def beats(lags: list[float], own: list[float]) -> None:
    """Note by how much each heartbeat is late, and how much less without the wait for a core."""
    while True:
        began_at, waited = perf_counter(), _waited_for_a_core()
        await asyncio.sleep(BEAT)
        lags.append(perf_counter() - began_at - BEAT)
        own.append(max(0.0, lags[-1] - (_waited_for_a_core() - waited)))


async def storm(gate: Gate, seconds: float) -> dict[str, float]:
    """Return what one storm did: shares of the capacity, milliseconds, megabytes."""
    resource, lags, own = Resource(gate), list[float](), list[float]()
    capacity = await resource.capacity(1.0)
    gc.collect()
    rss, cpu = _rss_mb(), process_time()
    heart = asyncio.create_task(beats(lags, own))
    left = await resource.offer(TIMES * SLOTS / SERVICE, seconds)
    good, wasted, shed = resource.good, resource.wasted, resource.shed
    grown, used = _rss_mb() - rss, process_time() - cpu
    heart.cancel()
    for task in left:
        task.cancel()
    await asyncio.wait([heart, *left])
    capacity = (capacity + await resource.capacity(1.0)) / 2
    return {
        "goodput": good / seconds / capacity,
        "wasted %": 100 * wasted / max(1, good + wasted),
        "p99 ms": 1000 * _p99(resource.waits),
        "lag p99 ms": 1000 * _p99(lags),
        "own lag p99 ms": 1000 * _p99(own),
        "MB": grown,
        "CPU %": 100 * used / seconds,
        "shed %": 100 * shed / max(1, shed + good + wasted),
    }


def compare(names: list[str], script: str, rounds: int, seconds: float) -> None:
    """Run all gates in turns, on asyncio and uvloop, and print the medians and the range."""
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for name in names:
            for loop in ("asyncio", "uvloop"):
                command = [sys.executable, script, "storm-one", name, loop, str(seconds)]
                ran = subprocess.run(command, check=True, capture_output=True, text=True)
                results.setdefault((name, loop), []).append(json.loads(ran.stdout))
    print(f"{TIMES} times the load for {seconds:g} s, {rounds} rounds: median (lowest to highest)")
    for (name, loop), ran_all in results.items():
        shown = "  ".join(_shown(what, [one[what] for one in ran_all]) for what in ran_all[0])
        print(f"  {name:13}{loop:8} {shown}")


def _shown(what: str, values: list[float]) -> str:
    digits = 2 if what == "goodput" else 1
    spread = f"{min(values):.{digits}f} to {max(values):.{digits}f}"
    return f"{what} {statistics.median(values):.{digits}f} ({spread})"


def _p99(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] if ordered else 0.0


def _waited_for_a_core() -> float:
    """Return the seconds that this process was ready to run and did not, in all; Linux only."""
    return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
