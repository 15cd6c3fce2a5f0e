"""Samples: what the loop's thread was seen doing while the loop did not beat."""

from collections import Counter
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

from ._arrival import Arrival
from ._places import Line
from ._requests import Requests
from ._usage import Seen, Use
from ._wire import Facts

EVERY = 0.025
"""Seconds between two samples of one stall."""

FIRST = 0.04
"""Seconds a heartbeat may be late before the first sample."""

Place = tuple[str, int, str]
"""File, line, function."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the loop's thread.

    Attributes:
        callback: The outermost frame that the loop has called, None while it waits for events.
        task: The task whose step that is.
        lines: Innermost first; empty in a sample that only the interpreter's core could take.
        native: What the core saw, innermost first: exact where a C call holds the interpreter.
        place: The instruction that is being executed.
        use: What the thread had used when this was taken; None where it was not interrupted.
    """

    callback: Any = None
    task: Any = None
    arrival: Arrival | None = None
    lines: tuple[Line, ...] = ()
    native: tuple[Place, ...] = ()
    place: object = None
    use: Use | None = None


class Sampler(Protocol):
    """Takes samples once a heartbeat is late."""

    @property
    def is_displaced(self) -> bool:
        """Whether it cannot work any more, because the app uses what it works with."""
        ...

    def expect(self, seconds: float, depth: int) -> None:
        """The next heartbeat is due in that many seconds.

        Args:
            depth: How many frames the loop has below what it calls; 0: not known yet.
        """
        ...

    def taken(self) -> list[Sample]:
        """Return the samples since the last heartbeat, and forget them."""
        ...

    def stop(self) -> None:
        """Take no samples any more."""
        ...


def callback_among(frames: list[FrameType], depth: int, task: Any) -> Any:
    """Return the frame that the loop has called, None while it waits for events.

    Args:
        frames: Innermost first.
    """
    if not depth:
        return task
    return frames[-depth - 1] if len(frames) > depth else None


def seen_in(samples: list[Sample]) -> list[Seen]:
    """Return use and place of the samples that interrupted the thread."""
    return [(sample.use, sample.place) for sample in samples if sample.use is not None]


def is_held_by_call(samples: list[Sample]) -> bool:
    """Whether one C call lasted all the time: the core alone could take most samples."""
    native = sum(1 for sample in samples if sample.native)
    return native > 2 * (len(samples) - native)


def told(samples: list[Sample], requests: Requests) -> Facts | None:
    """Return what is to blame for a stall; None when no single callback is.

    One callback is to blame when at least half of the samples show it. Samples that the core
    alone took belong to it too: no other Python code ran between them.
    """
    seen = [sample for sample in samples if sample.lines]
    native = [sample.native for sample in samples if sample.native]
    if is_held_by_call(samples):
        return _held(seen, native, requests)
    counts = Counter((id(sample.callback), id(sample.task)) for sample in seen)
    (callback, task), most = counts.most_common(1)[0]
    if callback == id(None) or most * 2 < max(len(seen), len(native)):
        return None
    same = [s for s in seen if id(s.callback) == callback and id(s.task) == task]
    sample = same[len(same) // 2]
    lines = [(code.co_filename, number, code.co_name) for code, number in sample.lines]
    return _facts(lines, sample.arrival, requests)


def _held(seen: list[Sample], native: list[tuple[Place, ...]], requests: Requests) -> Facts | None:
    """Return what a C call was called by that did not let go of the interpreter."""
    lines = list(Counter(native).most_common(1)[0][0])
    if not any(requests.places.is_own(file) for file, _, _ in lines) and not seen:
        return None
    arrivals = [sample.arrival for sample in seen if sample.arrival is not None]
    # The handler may run a step late, when the request has gone on already.
    return _facts(lines, arrivals[0] if arrivals else None, requests)


def _facts(lines: list[Place], arrival: Arrival | None, requests: Requests) -> Facts:
    own = [line for line in lines if requests.places.is_own(line[0])]
    file, number, function = (own or lines)[0]
    route = None if arrival is None else requests.name(arrival)
    if route is None and requests.routes is not None:
        route = requests.routes.of_lines(lines)
    return {
        "route": route,
        "id": None if arrival is None else arrival.id,
        "file": file,
        "line": number,
        "function": function,
        "stack": [f"{f}:{n} in {name}" for f, n, name in reversed((own or lines[:8])[:12])],
    }
