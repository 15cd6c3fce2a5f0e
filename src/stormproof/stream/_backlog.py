"""The backlog of one subscriber: what waits for a reader who is slow, bounded, with its gaps."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ._published import Published

Policy: TypeAlias = Literal["drop-oldest", "coalesce", "close"]
"""What happens when a reader is further behind than its bounds allow."""

POLICIES: tuple[Policy, ...] = ("drop-oldest", "coalesce", "close")


@dataclass(slots=True)
class Gap:
    """What was dropped and not told yet: how many events, the first and the last of them."""

    first: Published
    last: Published
    dropped: int = 1

    def add(self, event: Published) -> None:
        """Count one more."""
        self.dropped += 1
        if event.offset < self.first.offset:
            self.first = event
        elif event.offset > self.last.offset:
            self.last = event


class Backlog:
    """Events that wait for one reader, oldest first; nothing in it waits.

    One event is always kept, whatever its size. With "coalesce" a keyed event takes out the one
    of its topic and key that waits already; when that is not enough, the oldest is dropped.

    Args:
        policy: What happens beyond the bounds.
        max_frames: How many events may wait.
        max_bytes: How many bytes they may have.

    Attributes:
        gap: What was dropped since `take_gap`.
        dropped: How many events were ever dropped.
    """

    __slots__ = ("_bytes", "_max_bytes", "_max_frames", "_policy", "_waiting", "dropped", "gap")

    def __init__(self, policy: Policy, max_frames: int, max_bytes: int) -> None:
        self._policy = policy
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._bytes = 0
        self._waiting: dict[object, tuple[Published, Any]] = {}
        self.gap: Gap | None = None
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, event: Published, payload: Any) -> bool:
        """Let `event` wait; False when the policy is to close, and the bounds are passed."""
        place: object = event.offset
        if self._policy == "coalesce" and event.key is not None:
            place = (event.topic, event.key)
            if place in self._waiting:
                self._drop(place)
        self._waiting[place] = (event, payload)
        self._bytes += len(payload)
        while len(self._waiting) > 1 and self._is_over():
            if self._policy == "close":
                return False
            self._drop(next(iter(self._waiting)))
        return True

    def take(self) -> Any:
        """Return the payload of the oldest event and forget it; None when nothing waits."""
        if not self._waiting:
            return None
        _, payload = self._waiting.pop(next(iter(self._waiting)))
        self._bytes -= len(payload)
        return payload

    def take_gap(self) -> Gap | None:
        """Return what was dropped and forget it: to be told before the next event is sent."""
        gap, self.gap = self.gap, None
        return gap

    def clear(self) -> None:
        """Forget all: the client is about to be told that its history is lost."""
        self._waiting.clear()
        self._bytes = 0
        self.gap = None

    def _is_over(self) -> bool:
        return len(self._waiting) > self._max_frames or self._bytes > self._max_bytes

    def _drop(self, place: object) -> None:
        event, payload = self._waiting.pop(place)
        self._bytes -= len(payload)
        self.dropped += 1
        if self.gap is None:
            self.gap = Gap(event, event)
        else:
            self.gap.add(event)
