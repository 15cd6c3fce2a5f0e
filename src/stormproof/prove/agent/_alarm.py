"""The alarm: samples by a signal, which comes also while a C call holds the interpreter."""

import asyncio
import faulthandler
import os
import re
import signal
import tempfile
from types import FrameType
from typing import Any

from ._arrival import CURRENT
from ._places import frames_from
from ._samples import EVERY, FIRST, Place, Sample, callback_among
from ._usage import Usage

_MOST_SAMPLES = 40
_MOST_BYTES = 400_000
_SEEN = re.compile(r'^  File "(.*)", line (\d+) in (.*)$')


class Alarm:
    """Arms an interval timer at each heartbeat, so that it rings only when one is late.

    At each ring `faulthandler` writes the stack into a file in memory, at once and whatever the
    interpreter does; then the Python handler looks at the frames and the request, as soon as the
    interpreter lets it. For the main thread only.
    """

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        self._samples: list[Sample] = []
        self._depth = 0
        self._file = _memory_file()
        self._handler = self._ring
        signal.signal(signal.SIGALRM, self._handler)
        faulthandler.register(signal.SIGALRM, self._file, all_threads=False, chain=True)

    @property
    def is_displaced(self) -> bool:
        """Whether the app has put a handler of its own in our place."""
        return signal.getsignal(signal.SIGALRM) != self._handler

    def expect(self, seconds: float, depth: int) -> None:
        """Ring when the next heartbeat is 40 ms late, and every 25 ms from then on."""
        self._depth = depth
        signal.setitimer(signal.ITIMER_REAL, seconds + FIRST, EVERY)

    def taken(self) -> list[Sample]:
        """Return the samples since the last heartbeat, and forget them."""
        # Wherever the core has written, the handler has run before this line.
        if not self._samples or self.is_displaced:
            return []
        signal.setitimer(signal.ITIMER_REAL, 0)
        samples, self._samples = self._samples, []
        return samples + [Sample(native=places) for places in self._dumps()]

    def stop(self) -> None:
        """Ring no more."""
        if not self.is_displaced:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, _: int, frame: FrameType | None) -> None:
        # Nothing may be raised here: it would appear in the middle of the app's code.
        try:
            if len(self._samples) >= _MOST_SAMPLES or self._written() > _MOST_BYTES:
                signal.setitimer(signal.ITIMER_REAL, 0)
                return
            frames = list(frames_from(frame))
            task = _current_task()
            sample = Sample(
                callback=callback_among(frames, self._depth, task),
                task=task,
                arrival=CURRENT.get(),
                lines=tuple((each.f_code, each.f_lineno) for each in frames),
                use=self._usage.now(),
            )
            self._samples.append(sample)
        except Exception:
            return

    def _written(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _dumps(self) -> list[tuple[Place, ...]]:
        number = self._file.fileno()
        text = os.pread(number, _MOST_BYTES, 0).decode(errors="replace")
        os.lseek(number, 0, os.SEEK_SET)
        os.ftruncate(number, 0)
        return [_places(dump) for dump in text.split("(most recent call first):")[1:]]


def _places(dump: str) -> tuple[Place, ...]:
    found = (_SEEN.match(line) for line in dump.splitlines())
    return tuple((seen[1], int(seen[2]), seen[3]) for seen in found if seen is not None)


def _current_task() -> Any:
    try:
        return asyncio.current_task()
    except RuntimeError:  # the signal came between two callbacks
        return None


def _memory_file() -> Any:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stormproof-prove"), "wb", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
