"""Stalls: a heartbeat on the loop, and samples of what runs while it does not beat."""

import asyncio
import signal
import sys
import threading
from contextvars import Context

from ._alarm import Alarm
from ._places import depth_of
from ._requests import Requests
from ._samples import Sample, Sampler, told
from ._thread_sampler import ThreadSampler
from ._usage import Usage, blocked
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
        self._usage = Usage()
        self._last = self._usage.now()
        # An empty context: that of the first request would live as long as the loop.
        self._context = Context()
        self._sampler = self._chosen()
        self._sampler.expect(BEAT, 0)
        self._loop.call_later(BEAT, self._beat, context=self._context)

    def stop(self) -> None:
        """Take no samples any more, because the process ends."""
        self._loop = None
        if self._sampler is not None:
            self._sampler.stop()

    def forked(self) -> None:
        """Begin anew in a child process, where the timer does not run."""
        self._loop = self._sampler = None

    def _chosen(self) -> Sampler:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and hasattr(signal, "setitimer"):
            taken_by = signal.getsignal(signal.SIGALRM)
            if taken_by in (signal.SIG_DFL, None):
                return Alarm(self._usage)
        return ThreadSampler(self._requests)

    def _beat(self) -> None:
        loop, sampler = self._loop, self._sampler
        if loop is None or sampler is None or not self._requests.wire.is_live:
            self.stop()
            return
        now = self._usage.now()
        samples = sampler.taken()
        if samples and now.at - self._last.at > BEAT + LIMIT:
            uses = [self._last, *(s.use for s in samples if s.use is not None), now]
            seconds = blocked(uses) - BEAT
            if seconds > LIMIT:
                self._tell(seconds, samples)
        if sampler.is_displaced:  # the app has a use of its own for the alarm
            sampler = self._sampler = ThreadSampler(self._requests)
        self._last = now
        sampler.expect(BEAT, depth_of(sys._getframe(1)))
        loop.call_later(BEAT, self._beat, context=self._context)

    def _tell(self, seconds: float, samples: list[Sample]) -> None:
        facts: Facts | None = told(samples, self._requests)
        if facts is not None:
            self._requests.wire.emit("stall", {"seconds": seconds, **facts})
