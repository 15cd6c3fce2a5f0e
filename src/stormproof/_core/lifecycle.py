"""The lifecycle: which phase the service is in, what is in flight, and when it must be over."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from .asgi import Scope, request_name
from .clock import MONOTONIC, Clock
from .events import Events, PhaseEntered, ReadinessLost, ReadinessRegained
from .origin import enter_request, leave_request


class Phase(Enum):
    """The four phases of a service; it only ever goes forward through them."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"


_ORDER = tuple(Phase)


@dataclass(frozen=True, slots=True)
class Loss:
    """Acknowledged work that was cut.

    `kind` is "request", "background" (work after its answer), "stream", "task", "handover" (a
    task that nobody took over), "thread" or "part"; `age` in seconds.
    """

    kind: str
    name: str
    age: float
    detail: str = ""


class Part(Protocol):
    """Something with a life of its own that opens with the service and closes with it.

    Parts open in the order they were given and close in the reverse order.
    """

    @property
    def name(self) -> str:
        """What a log line calls this part, for example "database"."""
        ...

    async def open(self, lifecycle: "Lifecycle") -> None:
        """Make ready to serve; an exception here stops the start and closes what had opened."""
        ...

    async def drain(self, until: float) -> Sequence[Loss]:
        """Finish what was accepted, by the absolute monotonic time `until` at the latest.

        Called once, after the last request ended and before any part closes. Returns what
        had to be cut. Must not raise for work that failed.
        """
        ...

    async def close(self) -> None:
        """Give everything back; called once, also when `drain` failed."""
        ...


@dataclass(eq=False, slots=True)
class InFlight:
    """One request that was counted in and not yet out.

    Attributes:
        scope: Its ASGI scope.
        started_at: When it was counted in.
        task: The task it runs in.
        status: The status of its response, once headers were sent.
        is_answered: Whether the last byte of its response was handed to the server.
        is_cut: Whether the drain has cancelled it.
    """

    scope: Scope
    started_at: float
    task: "asyncio.Task[object] | None" = None
    status: int | None = None
    is_answered: bool = False
    is_cut: bool = False

    @property
    def name(self) -> str:
        """Method and route template, for example "GET /items/{id}"."""
        return request_name(self.scope)


@dataclass(eq=False, slots=True)
class StreamPlace:
    """One open stream's place in the drain: `leave` is set when it is its turn to end."""

    name: str
    started_at: float
    leave: asyncio.Event = field(default_factory=asyncio.Event)


class Lifecycle:
    """The state that crosses rooms: phase, requests and streams in flight, shutdown deadline.

    The verbs that move it (start, drain) are in the `lifecycle` room; other rooms read it.

    Args:
        grace: Seconds from the signal to the end of everything (the shutdown deadline).
        prestop: Seconds of lame duck: the listener stays open and requests are served.
        clock: Where the time is read.
        events: Where events go.

    Attributes:
        shutdown_at: Absolute time at which all must be over; None until the drain begins.
        losses: What was cut, filled during the drain.
        parts: What opens and closes with the service, in the order of opening.
        unready: Why the service cannot do its work although it runs: a reason by name.
        is_draining: Whether the drain has begun (it never ends but with the process); to be read.
    """

    def __init__(
        self,
        *,
        grace: float = 30.0,
        prestop: float = 5.0,
        clock: Clock = MONOTONIC,
        events: Events | None = None,
    ) -> None:
        self.grace = grace
        self.prestop = prestop
        self.clock = clock
        self.events = events or Events()
        self.parts: tuple[Part, ...] = ()
        self.restart()

    def restart(self) -> None:
        """Begin a new life in phase "starting": the same app may be served again, as tests do."""
        self.shutdown_at: float | None = None
        self.losses: list[Loss] = []
        self.unready: dict[str, str] = {}
        self.requests: set[InFlight] = set()
        self.streams: set[StreamPlace] = set()
        self._phase = Phase.STARTING
        self.is_draining = False

    @property
    def phase(self) -> Phase:
        """The phase the service is in."""
        return self._phase

    @property
    def is_ready(self) -> bool:
        """Whether new requests should be sent here: phase "ready", and nothing against it."""
        return self._phase is Phase.READY and not self.unready

    def declare_unready(self, name: str, reason: str) -> None:
        """Turn readiness to 503 until `declare_ready(name)`; requests are served all the same.

        Args:
            name: What is unable to work, for example "service 'poll'".
            reason: Why, in words that anybody may read who can ask for `/readyz`.
        """
        is_news = name not in self.unready
        self.unready[name] = reason
        if is_news:
            self.events.emit(ReadinessLost(name, reason))

    def declare_ready(self, name: str) -> None:
        """Take back what `declare_unready` said of `name`; when it said nothing, do nothing."""
        if self.unready.pop(name, None) is not None:
            self.events.emit(ReadinessRegained(name))

    def enter(self, phase: Phase) -> None:
        """Go on to `phase` and emit `PhaseEntered`.

        Going back, or to the phase it is in, does nothing: entering twice is harmless.
        """
        if _ORDER.index(phase) <= _ORDER.index(self._phase):
            return
        self._phase = phase
        self.is_draining = _ORDER.index(phase) >= _ORDER.index(Phase.DRAINING)
        self.events.emit(PhaseEntered(phase.value))

    @contextmanager
    def request(self, scope: Scope) -> Iterator[InFlight]:
        """Count a request in, and out again when the block ends however it ends.

        Inside the block it is the origin of all work that is started.
        """
        entry = InFlight(scope, self.clock.now(), asyncio.current_task())
        self.requests.add(entry)
        token = enter_request(entry)
        try:
            yield entry
        finally:
            leave_request(token)
            self.requests.discard(entry)

    @contextmanager
    def stream(self, name: str) -> Iterator[StreamPlace]:
        """Take a place among the open streams until the block ends.

        The stream watches `place.leave`; when it is set, it sends its last event and ends.
        """
        place = StreamPlace(name, self.clock.now())
        self.streams.add(place)
        try:
            yield place
        finally:
            self.streams.discard(place)
