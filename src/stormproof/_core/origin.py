"""The origin of work: which request it was started from, told without holding that request."""

from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Protocol, TypeAlias


class Arrival(Protocol):
    """A request that came in; `InFlight` is one."""

    @property
    def name(self) -> str:
        """Method and route template; the template is known once the app has routed."""
        ...

    @property
    def started_at(self) -> float:
        """When it came, absolute and monotonic."""
        ...


@dataclass(frozen=True, slots=True)
class Origin:
    """The request that work was started from: its method and route template, and when it came."""

    name: str
    started_at: float

    def described(self, now: float) -> str:
        """Return "POST /orders, 3.20 s ago"."""
        return f"{self.name}, {now - self.started_at:.2f} s ago"


_current: ContextVar["Arrival | Origin | None"] = ContextVar("stormproof_origin", default=None)

OriginToken: TypeAlias = Token["Arrival | Origin | None"]


enter_request = _current.set
"""Make a request the origin of what is started from here on; end it with `leave_request(token)`.

The pair of calls, and not a block, because it is on the path of every request.
"""

leave_request = _current.reset
"""Put back what was the origin before."""


def current_origin() -> "Arrival | Origin | None":
    """Return the request that this work was started from; who keeps it keeps its scope."""
    return _current.get()


def detach_origin() -> Origin | None:
    """Return the origin in force here, and keep only that of the request in this context.

    For the context of work that outlives the request, whose scope and task it must not hold.
    """
    request = _current.get()
    if request is None or isinstance(request, Origin):
        return request
    origin = Origin(request.name, request.started_at)
    _current.set(origin)
    return origin
