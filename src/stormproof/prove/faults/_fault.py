"""What a fault is: what becomes of the listener, of connections, and of bytes on their way."""

from dataclasses import dataclass
from typing import ClassVar, Literal

Cut = Literal["", "close", "reset"]
"""How a connection ends: not at all; as when a process dies (FIN); at once (RST)."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes on their way, or the end of one direction.

    Attributes:
        arrived_at: When they reached the proxy.
        size_bytes: How many; 0 is the end.
        waited_since: When the chunk before it had passed, or when it arrived, the later.
    """

    arrived_at: float
    size_bytes: int
    waited_since: float


class Fault:
    """No fault; every fault overrides what it changes.

    Attributes:
        is_listening: Whether the proxy accepts connections while the fault lasts.
        at_begin: What it does to the connections that are open when it begins.
        at_accept: What it does to a new connection.
        most_bytes: How much passes at a time.
    """

    __slots__ = ()

    is_listening: ClassVar[bool] = True
    at_begin: ClassVar[Cut] = ""
    at_accept: ClassVar[Cut] = ""

    @property
    def most_bytes(self) -> int:
        """How many bytes pass at a time."""
        return 65_536

    def due_at(self, chunk: Chunk) -> float:
        """Return when this chunk may pass, by the loop's clock; infinity: not while it lasts.

        Raises:
            ConnectionResetError: The connection breaks here.
        """
        return chunk.arrived_at
