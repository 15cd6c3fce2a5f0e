"""SlowClose: the end of a connection comes late."""

from dataclasses import dataclass

from ._fault import Chunk, Fault


@dataclass(frozen=True, slots=True)
class SlowClose(Fault):
    """Bytes pass as always; that one side has closed is told to the other `seconds` later."""

    seconds: float

    def due_at(self, chunk: Chunk) -> float:
        """Add the seconds where the chunk is the end."""
        return chunk.arrived_at + (0.0 if chunk.size_bytes else self.seconds)
