"""Reset: connections break in the middle."""

from dataclasses import dataclass
from typing import ClassVar

from ._fault import Chunk, Cut, Fault


@dataclass(frozen=True, slots=True)
class Reset(Fault):
    """Open connections are reset; new ones are accepted, and reset at their first bytes."""

    at_begin: ClassVar[Cut] = "reset"

    def due_at(self, chunk: Chunk) -> float:
        """Break the connection."""
        raise ConnectionResetError("the fault 'reset' is on")
