"""Bandwidth: a thin line."""

from dataclasses import dataclass

from ._fault import Chunk, Fault

_STEPS = 20
"""Into how many steps a second is cut."""


@dataclass(frozen=True, slots=True)
class Bandwidth(Fault):
    """At most `bytes_per_second` pass in each direction of each connection."""

    bytes_per_second: int

    @property
    def most_bytes(self) -> int:
        """A twentieth of a second's worth."""
        return max(1, self.bytes_per_second // _STEPS)

    def due_at(self, chunk: Chunk) -> float:
        """Add the time that so many bytes take."""
        return chunk.waited_since + chunk.size_bytes / self.bytes_per_second
