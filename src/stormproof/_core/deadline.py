"""The deadline of the running request: one absolute point in time that every wait spends from."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from .clock import MONOTONIC, Clock


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time on one clock.

    Attributes:
        at: Absolute time on `clock`, in seconds.
        clock: The clock that `at` was read from.
    """

    at: float
    clock: Clock = MONOTONIC

    def remaining(self) -> float:
        """Return the seconds left; zero or less once the deadline has passed."""
        return self.at - self.clock.now()


_current: ContextVar[Deadline | None] = ContextVar("stormproof_deadline", default=None)


def current_deadline() -> Deadline | None:
    """Return the deadline in force here, or None outside of any."""
    return _current.get()


def remaining() -> float | None:
    """Return the seconds left of the deadline in force (zero or less: passed), or None."""
    deadline = _current.get()
    return None if deadline is None else deadline.remaining()


def bounded(seconds: float) -> float:
    """Return `seconds`, or what remains of the deadline if that is less; never below zero."""
    left = remaining()
    return seconds if left is None else max(0.0, min(seconds, left))


@contextmanager
def deadline_at(deadline: Deadline) -> Iterator[Deadline]:
    """Put `deadline` in force inside the block, unless a nearer one already is.

    It only states the time: nothing is cancelled when it passes. Yields the deadline in force.
    """
    outer = _current.get()
    inner = deadline if outer is None or deadline.at <= outer.at else outer
    token = _current.set(inner)
    try:
        yield inner
    finally:
        _current.reset(token)
