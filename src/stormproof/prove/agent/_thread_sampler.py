"""The thread that samples, where the alarm cannot be used: a loop beside the main thread."""

import asyncio
import sys
import threading
import time
from types import FrameType
from typing import Any

from ._arrival import Arrival
from ._requests import Requests
from ._samples import EVERY, FIRST, Sample, callback_among
from ._wire import THREAD

_MOST_SAMPLES = 40


class ThreadSampler:
    """Looks at the frames of the loop's thread from another one, once a heartbeat is late.

    It sees nothing while a C call holds the interpreter; the look that follows may be late.
    """

    is_displaced = False

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._depth = 0
        self._due_at = float("inf")
        self._samples: list[Sample] = []
        self._is_over = threading.Event()
        threading.Thread(target=self._run, name=f"{THREAD}-sampler", daemon=True).start()

    def expect(self, seconds: float, depth: int) -> None:
        """Look when the next heartbeat is 40 ms late, and every 25 ms from then on."""
        self._depth = depth
        self._due_at = time.monotonic() + seconds + FIRST

    def taken(self) -> list[Sample]:
        """Return the samples since the last heartbeat, and forget them."""
        samples, self._samples = self._samples, []
        return samples

    def stop(self) -> None:
        """Look no more."""
        self._is_over.set()

    def _run(self) -> None:
        while not self._is_over.wait(EVERY):
            if self._loop.is_closed() or not self._requests.wire.is_live:
                return
            if time.monotonic() > self._due_at and len(self._samples) < _MOST_SAMPLES:
                self._look()

    def _look(self) -> None:
        frames = list(_frames(sys._current_frames().get(self._watched)))
        task = asyncio.current_task(self._loop)
        sample = Sample(
            callback=callback_among(frames, self._depth, task),
            task=task,
            arrival=_arrival_in(frames),
            lines=tuple((frame.f_code, frame.f_lineno) for frame in frames),
        )
        self._samples.append(sample)


def _frames(frame: FrameType | None) -> list[FrameType]:
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _arrival_in(frames: list[FrameType]) -> Arrival | None:
    """Return the request whose call is among the frames; a context cannot be read from here."""
    for frame in frames:
        found: Any = frame.f_locals.get("arrival") if frame.f_code.co_name == "call" else None
        if isinstance(found, Arrival):
            return found
    return None
