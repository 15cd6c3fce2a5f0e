"""Stalls: a heartbeat on the loop, and samples of what runs while it does not beat."""

import asyncio
import os
import signal
import threading
import time
from contextvars import Context
from typing import Any

from ._alarm import Alarm
from ._requests import Requests
from ._samples import Sample, Sampler, told
from ._thread_sampler import ThreadSampler
from ._wire import Facts

BEAT = 0.025
LIMIT = 0.1
"""Stalls up to this many seconds are not told."""


class Stalls:
    """Tells each callback of the loop that takes more than 100 ms, with its stack meanwhile.

    Many short callbacks in one turn of the loop, and a thread that waits for a processor, make
    the heartbeat late as well and are no stalls: the samples have to show the same callback, and
    the time in the run queue is taken off.
    """

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sampler: Sampler | None = None

    def start(self) -> None:
        """Begin to watch the running loop; must be called in it, once the app has started."""
        if self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._waits = _RunQueue()
        self._beat_at = time.monotonic()
        # An empty context: that of the first request would live as long as the loop.
        self._context = Context()
        self._sampler = self._chosen()
        self._loop.call_later(BEAT, self._beat, context=self._context)

    def forked(self) -> None:
        """Begin anew in a child process, where the timer does not run."""
        self._loop = self._sampler = None

    def _chosen(self) -> Sampler:
        is_main = threading.current_thread() is threading.main_thread()
        if (
            is_main
            and hasattr(signal, "setitimer")
            and signal.getsignal(signal.SIGALRM)
            in (
                signal.SIG_DFL,
                None,
            )
        ):
            return Alarm(self._requests)
        return ThreadSampler(self._requests)

    def _beat(self) -> None:
        loop, sampler = self._loop, self._sampler
        if loop is None or sampler is None or not self._requests.wire.is_live:
            if sampler is not None:
                sampler.stop()
            return
        now = time.monotonic()
        late = now - self._beat_at - BEAT
        waited = self._waits.since_last()
        samples = sampler.taken()
        if late - waited > LIMIT and samples:
            self._tell(late - waited, samples)
        if sampler.is_displaced:  # the app has a use of its own for the alarm
            sampler = self._sampler = ThreadSampler(self._requests)
        self._beat_at = time.monotonic()
        sampler.expect(BEAT)
        loop.call_later(BEAT, self._beat, context=self._context)

    def _tell(self, seconds: float, samples: list[Sample]) -> None:
        facts: Facts | None = told(samples, self._requests)
        if facts is not None:
            self._requests.wire.emit("stall", {"seconds": seconds, **facts})


class _RunQueue:
    """How long the thread that asks was able to run and had no processor."""

    def __init__(self) -> None:
        self._last = 0.0
        try:
            path = f"/proc/self/task/{threading.get_native_id()}/schedstat"
            self._file: Any = os.open(path, os.O_RDONLY)
        except OSError:
            self._file = None
        self.since_last()

    def since_last(self) -> float:
        """Return the seconds since the last call; 0 where the system does not tell."""
        if self._file is None:
            return 0.0
        try:
            total = int(os.pread(self._file, 100, 0).split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            self._file = None
            return 0.0
        waited, self._last = total - self._last, total
        return waited
