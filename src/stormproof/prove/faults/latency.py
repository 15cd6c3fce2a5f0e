"""Latency: everything is late."""

from dataclasses import dataclass

from ._fault import Chunk, Fault


@dataclass(frozen=True, slots=True)
class Latency(Fault):
    """Bytes pass `seconds` after they came, in each direction: a round trip takes twice that.

    What is under way at a time is bounded (see the proxy), so a bulk transfer slows down too.
    """

    seconds: float

    def due_at(self, chunk: Chunk) -> float:
        """Add the seconds to when it came."""
        return chunk.arrived_at + self.seconds
