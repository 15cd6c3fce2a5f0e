"""A generation: workers that were started together and run the same code."""

import logging
from dataclasses import dataclass

from ._child import Child, ChildState, Recipe

_log = logging.getLogger("stormproof")

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
"""Seconds before a worker that has ended is replaced: doubled each time, up to the longest."""

_STEADY = 60.0
"""Seconds of service after which the next end counts as the first."""


@dataclass(slots=True)
class _Place:
    child: Child | None = None
    start_at: float = 0.0
    ends: int = 0

    def pause(self, now: float) -> float:
        """Let it stay empty for a while, longer each time; returns for how many seconds."""
        seconds = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self.ends, 10))
        self.ends += 1
        self.start_at = now + seconds
        return seconds


class Generation:
    """So many places for workers, each filled again when its worker ends.

    The first worker starts alone, and the others once it serves: code that cannot start fails
    once and not many times, and says so in one sentence.

    Args:
        recipe: What each worker is started with.
        size: How many there are to be.
    """

    def __init__(self, recipe: Recipe, size: int) -> None:
        self._recipe = recipe
        self._places = [_Place() for _ in range(size)]
        self._has_served = False

    @property
    def size(self) -> int:
        """How many workers there are to be."""
        return len(self._places)

    @property
    def children(self) -> list[Child]:
        """The workers there are."""
        return [place.child for place in self._places if place.child is not None]

    @property
    def has_served(self) -> bool:
        """Whether one of its workers has ever served."""
        self._has_served = self._has_served or any(
            child.ready_at is not None for child in self.children
        )
        return self._has_served

    @property
    def is_serving(self) -> bool:
        """Whether all of its workers serve."""
        serving = [child for child in self.children if child.state is ChildState.READY]
        return len(serving) == self.size

    def start_missing(self, now: float) -> list[Child]:
        """Start the workers that are missing and due; returns those started."""
        started = []
        for place in self._places if self.has_served else self._places[:1]:
            if place.child is not None or now < place.start_at:
                continue
            try:
                place.child = Child(self._recipe, now)
            except OSError as exc:  # no memory, too many processes: those that serve go on
                pause = place.pause(now)
                _log.error("no worker can be started: %s; again in %g s", exc, pause)
            else:
                started.append(place.child)
        return started

    def remove(self, child: Child, now: float) -> float:
        """Take out a worker that has ended; returns the seconds until it is replaced."""
        self._has_served = self.has_served
        place = next(place for place in self._places if place.child is child)
        if child.ready_at is not None and now - child.ready_at >= _STEADY:
            place.ends = 0
        place.child = None
        return place.pause(now)

    def clear(self) -> list[Child]:
        """Take out all workers, to be ended by the caller."""
        children = self.children
        for place in self._places:
            place.child = None
        return children
