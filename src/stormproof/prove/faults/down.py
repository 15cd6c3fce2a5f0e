"""Down: nobody listens."""

from dataclasses import dataclass
from typing import ClassVar

from ._fault import Cut, Fault


@dataclass(frozen=True, slots=True)
class Down(Fault):
    """The dependency's process has ended: connections close, new ones are refused."""

    is_listening: ClassVar[bool] = False
    at_begin: ClassVar[Cut] = "close"
