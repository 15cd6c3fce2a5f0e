"""Refuse: whoever comes is sent away."""

from dataclasses import dataclass
from typing import ClassVar

from ._fault import Cut, Fault


@dataclass(frozen=True, slots=True)
class Refuse(Fault):
    """Connections are accepted and closed at once, as by a full server or a port forwarder."""

    at_begin: ClassVar[Cut] = "close"
    at_accept: ClassVar[Cut] = "close"
