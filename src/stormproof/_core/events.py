"""Events: what happened in a room, as frozen facts that metrics, logs and reports listen to."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

_log = logging.getLogger("stormproof")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened; subclasses are named in the past tense."""


@dataclass(frozen=True, slots=True)
class PhaseEntered(Event):
    """The lifecycle went on to its next phase ("starting", "ready", "draining", "stopping")."""

    phase: str


@dataclass(frozen=True, slots=True)
class ReadinessLost(Event):
    """Something the service cannot do without gave up; readiness is 503 from now on."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReadinessRegained(Event):
    """What had given up works again."""

    name: str


@dataclass(frozen=True, slots=True)
class DrainFinished(Event):
    """The drain is over, `seconds` after it began, and `lost` things were cut."""

    seconds: float
    lost: int


@dataclass(frozen=True, slots=True)
class WorkLost(Event):
    """Acknowledged work was cut at the end of the grace period; `age` in seconds."""

    kind: str
    name: str
    age: float
    detail: str


@dataclass(frozen=True, slots=True)
class RequestRefused(Event):
    """A request got 503 because the service is past the lame duck of its drain."""

    name: str


@dataclass(frozen=True, slots=True)
class DeadlineExpired(Event):
    """A request's deadline passed; `answered` tells whether a 504 could still be sent."""

    name: str
    timeout: float
    answered: bool


@dataclass(frozen=True, slots=True)
class OverdueFinished(Event):
    """A handler whose deadline had passed has ended, `late` seconds after the deadline."""

    name: str
    late: float


@dataclass(frozen=True, slots=True)
class SlotRefused(Event):
    """A limiter shed a caller; `waited` in seconds.

    `reason` is "queue", "target", "deadline", "priority" or "closed"; on arrival `waited` is 0.
    """

    limiter: str
    capacity: int
    waiting: int
    waited: float
    reason: str


@dataclass(frozen=True, slots=True)
class RateRefused(Event):
    """A caller was over its rate limit; its next call is allowed in `retry_after` seconds."""

    limit: str
    retry_after: float


@dataclass(frozen=True, slots=True)
class RateStoreLost(Event):
    """The store of the rate limit `name` did not answer; what follows is in `on_store_down`."""

    name: str
    cause: str


@dataclass(frozen=True, slots=True)
class RateStoreRegained(Event):
    """The store of the rate limit `name` answers again."""

    name: str


@dataclass(frozen=True, slots=True)
class PoolWaitExpired(Event):
    """No database connection came free within `waited` seconds."""

    waited: float
    pool_size: int


@dataclass(frozen=True, slots=True)
class ReplicaSkipped(Event):
    """Reads do not go to the replica at `place` any more, because it is down or too far behind."""

    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReplicaRegained(Event):
    """Reads go to the replica at `place` again."""

    place: str


@dataclass(frozen=True, slots=True)
class CommitFailed(Event):
    """A COMMIT failed, so the caller was told so; `cause` is the driver's sentence."""

    cause: str


@dataclass(frozen=True, slots=True)
class ConnectionLeftIdle(Event):
    """A database connection is held, and has not been used for `idle` seconds; told once.

    `route` is the request it was taken for, `place` the line its task waits at, `stack` the
    lines that led to the checkout (with `trace`).
    """

    route: str | None
    task: str
    idle: float
    place: str | None
    stack: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConnectionLeaked(Event):
    """A request ended without giving its connection back; it was taken back after `held` seconds.

    `stack`: the lines that led to the checkout (with `trace`).
    """

    route: str | None
    task: str
    held: float
    stack: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TransactionRetried(Event):
    """A unit of work is run again, for the `number`th time, because of another transaction."""

    name: str
    number: int
    cause: str


@dataclass(frozen=True, slots=True)
class CommitCallbackFailed(Event):
    """What was to follow a COMMIT raised or was cut; the COMMIT itself stands."""

    callback: str
    error: str


@dataclass(frozen=True, slots=True)
class TaskFailed(Event):
    """A supervised task ended with an exception, or was not done within its timeout.

    `origin` is the request it was started from ("POST /orders"), or None.
    """

    name: str
    error: str
    age: float
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class TaskRefused(Event):
    """A task was not started because `running` of at most `max_running` were under way.

    Emitted in the thread that asked for it, which may be that of a `def` endpoint.
    """

    name: str
    running: int
    max_running: int


@dataclass(frozen=True, slots=True)
class JobFailed(Event):
    """A durable job has failed for good, after `starts` starts; `is_held` until somebody acts."""

    task: str
    job_id: int
    error: str
    starts: int
    is_held: bool


@dataclass(frozen=True, slots=True)
class StreamOpened(Event):
    """A subscriber opened a stream."""

    name: str


@dataclass(frozen=True, slots=True)
class StreamEnded(Event):
    """A stream ended.

    `reason` is "finished", "left", "drain", "failed", "stalled", "idle" or "deadline", of a hub's
    stream also "age" or "expired"; `age` in seconds.
    """

    name: str
    reason: str
    age: float


@dataclass(frozen=True, slots=True)
class EventsDropped(Event):
    """A subscriber was behind, so `dropped` events were dropped for it; it was told so."""

    name: str
    dropped: int


@dataclass(frozen=True, slots=True)
class BusLost(Event):
    """A hub cannot read its bus; it tries on, and subscribers stay."""

    hub: str
    cause: str


@dataclass(frozen=True, slots=True)
class BusRegained(Event):
    """A hub reads its bus again, `seconds` after it was lost."""

    hub: str
    seconds: float


@dataclass(frozen=True, slots=True)
class UpstreamFailed(Event):
    """A call to an upstream failed; `timed_out` tells a passed deadline from an error."""

    upstream: str
    cause: str
    timed_out: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class CircuitChanged(Event):
    """A circuit breaker changed; `state` is "open", "ramping" (up again) or "closed"."""

    upstream: str
    state: str
    reason: str


Listener: TypeAlias = Callable[[Event], None]


class Events:
    """Hands each event to every listener, in the order they subscribed."""

    __slots__ = ("_listeners",)

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every later event; return a function that ends this."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Hand `event` to each listener at once; a listener that raises is logged, not felt."""
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:
                _log.exception("a listener failed on %r", event)
