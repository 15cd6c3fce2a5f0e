"""The census: what is alive in the app at one moment; answered while the loop is stuck, too."""

import asyncio
import gc
import os
import threading
from collections import Counter

from ._holds import Holds
from ._requests import Requests
from ._wire import THREAD, Facts


class Census:
    """Counts tasks, threads, connections and the limiter of threads, from any thread."""

    def __init__(self, requests: Requests, holds: Holds) -> None:
        self._requests = requests
        self._holds = holds

    def facts(self) -> Facts:
        """Return the counts of this moment."""
        names = Counter(_names(self._requests.loop))
        threads = [t for t in threading.enumerate() if not t.name.startswith(THREAD)]
        return {
            "tasks": names.total(),
            "threads": len(threads),
            "fds": _descriptors(),
            "checkouts": self._holds.facts(),
            "pools": self._holds.pools(),
            "limiter": self._limiter(),
            "tasks_by_name": dict(names),
        }

    def collect(self, _: Facts) -> int:
        """Run the garbage collector in the loop, where finalizers expect to run."""
        loop = self._requests.loop
        if loop is None or loop.is_closed():
            return gc.collect()
        done = threading.Event()

        def collect() -> None:
            gc.collect()
            done.set()

        loop.call_soon_threadsafe(collect)
        return int(done.wait(2.0))

    def _limiter(self) -> dict[str, float]:
        limiter = self._requests.limiter
        if limiter is None:
            return {"total": 0, "borrowed": 0, "waiting": 0}
        statistics = limiter.statistics()
        return {
            "total": statistics.total_tokens,
            "borrowed": statistics.borrowed_tokens,
            "waiting": statistics.tasks_waiting,
        }


def _names(loop: asyncio.AbstractEventLoop | None) -> list[str]:
    if loop is None:
        return []
    tasks = [task for task in asyncio.all_tasks(loop) if task.get_name() != THREAD]
    coroutines = [task.get_coro() for task in tasks]
    return [str(getattr(coro, "__qualname__", None) or type(coro).__name__) for coro in coroutines]


def _descriptors() -> int:
    """Return how many descriptors are open, without the one that looks; 0: not known here."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder)) - 1
        except OSError:
            continue
    return 0
