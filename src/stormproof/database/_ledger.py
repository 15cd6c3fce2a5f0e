"""The ledger: who holds which connection, since when, and what a route's use of them adds up to."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType

import greenlet  # type: ignore[import-untyped]  # it has no types
import sqlalchemy
from sqlalchemy.pool import ConnectionPoolEntry

from stormproof._core.events import ConnectionLeaked, ConnectionLeftIdle, Event
from stormproof._core.lifecycle import InFlight
from stormproof._core.origin import Arrival, Origin, current_origin
from stormproof._core.place import waiting_place

_log = logging.getLogger("stormproof")

CHECKOUT = "stormproof.checkout"
"""Key in a record's `record_info`: the checkout under way."""

_LOOK_EVERY = 1.0
_MOST_ROUTES = 500
_MOST_FRAMES = 12
_NOT_THE_CALLER = (os.path.dirname(sqlalchemy.__file__), os.path.dirname(__file__))


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a connection at this moment; times in seconds.

    Attributes:
        route: Method and route template of the request it was taken for, or None.
        task: The name of the task that took it.
        held: For how long.
        idle: Time since its last statement ended; None while one is running.
        place: The line at which that task waits now, or None when it has ended.
        stack: The lines that led to the checkout, outermost first; empty without `trace`.
    """

    route: str | None
    task: str
    held: float
    idle: float | None
    place: str | None
    stack: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UseTime:
    """How connections were used by one route: how often, and for how many seconds."""

    count: int
    seconds: float
    longest: float


@dataclass(eq=False, slots=True)
class Checkout:
    """One connection that is out; loop times in seconds.

    `idle_at` is None during a statement; `is_by_request` tells that the request's own task took it.
    """

    at: float
    task: "asyncio.Task[object] | None"
    origin: Arrival | Origin | None
    stack: tuple[str, ...]
    idle_at: float | None
    is_by_request: bool
    is_reported: bool = False

    @property
    def task_name(self) -> str:
        """The name of the task that took it."""
        return self.task.get_name() if self.task is not None else "no task"


class Ledger:
    """Notes each checkout; finds connections that are held idle, or by a request that is over.

    It looks once a second while any connection is out, and when a caller finds the pool full.

    Args:
        name: What log lines call the database.
        idle_limit: Seconds after which an idle holder is told once, None for never.
        trace: Whether to note the stack at each checkout.
        emit: Where events go.
        is_in_flight: Whether a request is not over yet.
    """

    def __init__(
        self,
        *,
        name: str,
        idle_limit: float | None,
        trace: bool,
        emit: Callable[[Event], None],
        is_in_flight: Callable[[InFlight], bool],
    ) -> None:
        self.out: dict[object, Checkout] = {}
        self._name = name
        self._idle_limit = idle_limit
        self._trace = trace
        self._emit = emit
        self._is_in_flight = is_in_flight
        self._uses: dict[str, list[float]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def take(self, record: ConnectionPoolEntry) -> None:
        """Note that the running task took `record`."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        stack = _stack() if self._trace else ()
        task, origin = asyncio.current_task(loop), current_origin()
        # Asked now: a request that is over has forgotten its task.
        is_own = isinstance(origin, InFlight) and origin.task is task
        checkout = Checkout(now, task, origin, stack, now, is_own)
        self.out[record] = checkout
        info = record.record_info
        if info is not None:
            info[CHECKOUT] = checkout
        if self._timer is None:
            self._timer = loop.call_later(self._period, self._look)

    def give_back(self, record: ConnectionPoolEntry) -> Checkout | None:
        """Note that `record` is back; return who had it."""
        info = record.record_info
        if info is not None:
            info.pop(CHECKOUT, None)
        checkout = self.out.pop(record, None)
        if checkout is not None:
            self._count_use(checkout, asyncio.get_running_loop().time() - checkout.at)
        return checkout

    def holders(self) -> tuple[Holder, ...]:
        """Return who holds a connection now, the longest first."""
        now = asyncio.get_running_loop().time()
        return tuple(_holder(one, now) for one in sorted(self.out.values(), key=lambda o: o.at))

    def use_time(self) -> Mapping[str, UseTime]:
        """Return the sums since the start, by route."""
        return {
            route: UseTime(int(count), seconds, longest)
            for route, (count, seconds, longest) in self._uses.items()
        }

    def sweep(self) -> None:
        """Take back what a request that is over has left out; tell of who holds one idle."""
        now = asyncio.get_running_loop().time()
        for key, checkout in list(self.out.items()):
            if isinstance(key, ConnectionPoolEntry) and self._is_orphan(checkout):
                self._take_back(key, checkout, now)
            elif self._is_idle_too_long(checkout, now):
                self._tell_idle(checkout, now)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def _period(self) -> float:
        return _LOOK_EVERY if self._idle_limit is None else min(_LOOK_EVERY, self._idle_limit)

    def _look(self) -> None:
        self._timer = None
        self.sweep()
        if self.out:
            self._timer = asyncio.get_running_loop().call_later(self._period, self._look)

    def _is_orphan(self, checkout: Checkout) -> bool:
        request, task = checkout.origin, checkout.task
        if not isinstance(request, InFlight) or self._is_in_flight(request):
            return False
        # A task that the request started may go on with its own connection.
        return task is None or checkout.is_by_request or task.done()

    def _is_idle_too_long(self, checkout: Checkout, now: float) -> bool:
        if self._idle_limit is None or checkout.is_reported or checkout.idle_at is None:
            return False
        return now - checkout.idle_at >= self._idle_limit

    def _take_back(self, record: ConnectionPoolEntry, checkout: Checkout, now: float) -> None:
        fairy_of = getattr(record, "fairy_ref", None)
        fairy = fairy_of() if fairy_of is not None else None
        if fairy is None:
            return  # the garbage collector is about to give it back
        holder = _holder(checkout, now)
        _log.error(
            "%s: %s ended without giving its connection back; it is taken back after %.2f s%s",
            self._name,
            holder.route,
            holder.held,
            _shown(holder.stack) or "; Database(trace=True) tells where it was taken",
        )
        self._emit(ConnectionLeaked(holder.route, holder.task, holder.held, holder.stack))
        driver = fairy.driver_connection
        fairy.invalidate()
        # psycopg closes by talking to the server, which nobody is left to wait for.
        abandon = getattr(driver, "abandon", None)
        if abandon is not None:
            abandon()

    def _tell_idle(self, checkout: Checkout, now: float) -> None:
        checkout.is_reported = True
        holder = _holder(checkout, now)
        idle = holder.idle or 0.0
        _log.warning(
            "%s: %s holds a connection and has not used it for %.2f s; it waits at %s%s",
            self._name,
            holder.route or holder.task,
            idle,
            holder.place,
            _shown(holder.stack),
        )
        self._emit(ConnectionLeftIdle(holder.route, holder.task, idle, holder.place, holder.stack))

    def _count_use(self, checkout: Checkout, seconds: float) -> None:
        route = _label(checkout.origin)
        use = self._uses.get(route)
        if use is None:
            if len(self._uses) >= _MOST_ROUTES:
                route = "other"
            use = self._uses.setdefault(route, [0, 0.0, 0.0])
        use[0] += 1
        use[1] += seconds
        if seconds > use[2]:
            use[2] = seconds


def _label(origin: Arrival | Origin | None) -> str:
    if origin is None:
        return "no request"
    if isinstance(origin, InFlight) and "route" not in origin.scope:
        return "no route"  # the path would be a raw one
    return origin.name


def _holder(checkout: Checkout, now: float) -> Holder:
    task, idle_at = checkout.task, checkout.idle_at
    return Holder(
        route=checkout.origin.name if checkout.origin is not None else None,
        task=checkout.task_name,
        held=now - checkout.at,
        idle=None if idle_at is None else now - idle_at,
        place=waiting_place(task) if task is not None and not task.done() else None,
        stack=checkout.stack,
    )


def _shown(stack: tuple[str, ...]) -> str:
    return "; taken at " + " < ".join(reversed(stack)) if stack else ""


def _stack() -> tuple[str, ...]:
    # SQLAlchemy runs the pool in a greenlet; the caller's frames are those of its parent.
    parent = greenlet.getcurrent().parent
    frames = list(_frames(parent.gr_frame if parent is not None else None))
    return tuple(reversed(frames[:_MOST_FRAMES]))


def _frames(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(_NOT_THE_CALLER):
            yield f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"
        frame = frame.f_back
