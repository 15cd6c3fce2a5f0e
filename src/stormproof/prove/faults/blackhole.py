"""Blackhole: a network that swallows everything and says nothing."""

import math
from dataclasses import dataclass

from ._fault import Chunk, Fault


@dataclass(frozen=True, slots=True)
class Blackhole(Fault):
    """Connections stay open, new ones are accepted, and no byte or end passes while it lasts.

    When it is cleared, what was held flows on, as TCP does when a cable is plugged in again.
    """

    def due_at(self, chunk: Chunk) -> float:
        """Return never."""
        return math.inf
