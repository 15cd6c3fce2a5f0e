"""The feed: one reader of the bus for the whole process, and who is to have what it reads."""

import asyncio
import logging
import random
import time
from asyncio import _enter_task, _leave_task  # see "Extending" in its docs
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeVar

from stormproof._core.deadline import bounded
from stormproof._core.events import BusLost, BusRegained, Events, EventsDropped
from stormproof.errors import BusUnavailable

from ._bus import Bus, HistoryLost, Position
from ._published import Published, Run, runs_of
from ._ring import Ring
from ._wheel import SLICE, Timed, Wheel
from ._wire import Wire

T = TypeVar("T")

_log = logging.getLogger("stormproof")

_BATCH = 256
_READ_WAIT = 30.0
"""Seconds that one read of the bus waits for an event; then it is asked anew."""

_BACKOFF = (0.1, 5.0)
"""Seconds before the first and before any later attempt to read from a bus that failed."""

_START_WAIT = 5.0
"""Seconds that a subscriber or a start waits for a bus that was never reached."""

_FETCHES = 4
"""Clients whose history is read from the bus at once; after a restart all of them come back."""

_LOOK_EVERY = 8


class Listener(Timed, Protocol):
    """A subscriber, as the feed knows it; what the feed calls never waits and never raises."""

    topics: frozenset[str]

    def offer(self, run: Run, now: float) -> int:
        """Send `run` now and return how many events that were, or keep it for later."""

    def reset(self, position: Position, now: float) -> int:
        """Learn that events before `position` are lost; return 0."""


class Feed:
    """Reads the bus and fans out; lives on one loop, from `start` to `stop`.

    The task that reads is owned here: `stop` cancels and awaits it. While the bus fails,
    subscribers stay; when it is back they get all that followed, or a reset.

    Args:
        name: The hub's name, for logs.
        bus: What is read.
        keep: How many events stay in memory for clients that resume.
        tick: Seconds of a tick of the wheel.
        events: Where `BusLost` and `BusRegained` go.

    Attributes:
        position: The newest entry that the fan-out has begun with; None before the first read.
        is_spreading: Whether an event is on its way to some of the subscribers.
        delivered: Events that were handed to connections.
        dropped: Events that were dropped for slow readers.
        wheel: The one timer.
    """

    def __init__(
        self, name: str, bus: Bus, *, keep: int, tick: float, events: Events | None = None
    ) -> None:
        self._name = name
        self._bus = bus
        self._keep = keep
        self._events = events or Events()
        self._loop = asyncio.get_running_loop()
        self.wheel = Wheel(self._loop, tick)
        self.position: Position | None = None
        self.is_spreading = False
        self.delivered = 0
        self.dropped = 0
        self._ring = Ring(keep, 0)
        self._topics: dict[str, dict[Listener, None]] = {}
        self._listeners: dict[Listener, None] = {}
        self._known = asyncio.Event()  # there is a position
        self._moved: set[asyncio.Future[None]] = set()
        self._questions: dict[Position | None, asyncio.Task[Any]] = {}
        self._fetching = asyncio.Semaphore(_FETCHES)
        self._failing_since: float | None = None
        self._attempts = 0
        self._beats: dict[Wire, tuple[Position | None, Any]] = {}
        self._reader = asyncio.create_task(self._read(), name=f"hub {name}")

    # For subscribers and publishers ------------------------------------------------------

    async def wait_known(self) -> Position:
        """Wait until the bus has told its tail, at most some seconds and never past the deadline.

        Raises:
            BusUnavailable: It did not.
        """
        if self.position is None:
            seconds = bounded(_START_WAIT)
            try:
                async with asyncio.timeout(seconds):
                    await self._known.wait()
            except TimeoutError:
                raise BusUnavailable(
                    f"hub {self._name!r} has not reached its bus within {seconds:.1f} s; look "
                    "at the bus, or at the log for why",
                    retry_after=1.0,
                ) from None
        assert self.position is not None  # _known says so
        return self.position

    @property
    def here(self) -> Position:
        """The position, for those who know that there is one."""
        assert self.position is not None  # `wait_known` came before
        return self.position

    def join(self, listener: Listener) -> None:
        """Hand `listener` everything after `position`, from now on."""
        self._listeners[listener] = None
        for topic in listener.topics:
            self._topics.setdefault(topic, {})[listener] = None

    def leave(self, listener: Listener) -> None:
        """Hand it nothing any more; one that never joined does no harm."""
        self.wheel.discard(listener)
        if self._listeners.pop(listener, self) is self:
            return
        for topic in listener.topics:
            audience = self._topics.get(topic, {})
            audience.pop(listener, None)
            if not audience:
                self._topics.pop(topic, None)

    def recent(self, offset: int, limit: int) -> list[Published] | None:
        """Return up to `limit` events after `offset`; None when the bus has to be asked."""
        return self._ring.after(offset, limit)

    def fetch(self, after: Position) -> "asyncio.Task[list[Published]]":
        """Return a task that reads what came after `after`, one for all who ask.

        It tries until it can, or raises HistoryLost. It belongs to the feed: who has asked may
        go away.
        """

        async def read() -> list[Published]:
            entries = await self._bus.read(after, limit=_BATCH, wait=0.0)
            return [Published(entry, after.epoch) for entry in entries]

        return self._asked(after, read)

    def tail(self) -> "asyncio.Task[Position]":
        """Return a task that asks the bus for its newest position, as `fetch` does."""
        return self._asked(None, self._bus.tail)

    def beat(self, wire: Wire, *, has_id: bool) -> Any:
        """Return a heartbeat; with `has_id` it moves the client's `Last-Event-ID` on.

        So who hears little can resume although the log has been trimmed meanwhile. While an
        event is on its way, nobody knows who has it already: then it says nothing of the id.
        """
        position = self.position if has_id and not self.is_spreading else None
        known, payload = self._beats.get(wire, (None, None))
        if payload is None or known != position:
            text = None if position is None else str(position)
            payload = wire.encode(id=text, comment="keep-alive")
            self._beats[wire] = (position, payload)
        return payload

    def tell_dropped(self, stream: str, dropped: int) -> None:
        """Emit that a slow reader was told how many events were dropped for it."""
        self._events.emit(EventsDropped(stream, dropped))

    async def caught_up(self, offset: int, *, max_wait: float) -> None:
        """Wait until the fan-out has come to `offset`, at most `max_wait` seconds."""
        until = self._loop.time() + max_wait
        while self.position is not None and self.position.offset < offset:
            moved = self._loop.create_future()
            self._moved.add(moved)
            try:
                async with asyncio.timeout_at(until):
                    await moved
            except TimeoutError:
                return
            finally:
                self._moved.discard(moved)

    async def stop(self) -> None:
        """End the reader and what it has begun; subscribers get nothing any more.

        Cancelled meanwhile: the tasks were cancelled all the same.
        """
        self.wheel.stop()
        tasks = [self._reader, *self._questions.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # The reader --------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            try:
                if self.position is None:
                    self._begin_at(await self._bus.tail())
                await self._read_on(self.here)
            except HistoryLost as exc:
                _log.warning("hub %r: %s; subscribers are told to begin anew", self._name, exc)
                await self._begin_anew()
            except Exception as exc:  # of whatever kind the bus raises
                await self._back_off(exc)

    async def _read_on(self, position: Position) -> None:
        entries = await self._bus.read(position, limit=_BATCH, wait=_READ_WAIT)
        self._is_back()
        for run in runs_of(Published(entry, position.epoch) for entry in entries):
            # The position first, then who is there: who joins from here on has seen this run.
            for event in run.events:
                self._ring.append(event)
            self.position = Position(position.epoch, run.events[-1].offset)
            audience = self._topics.get(run.topic)
            if audience:
                await self._spread([one.offer for one in audience], run)
        moved, self._moved = self._moved, set()
        for future in moved:
            if not future.done():
                future.set_result(None)

    def _begin_at(self, position: Position) -> None:
        self.position = position
        self._ring = Ring(self._keep, position.offset)
        self._known.set()

    async def _begin_anew(self) -> None:
        try:
            position = await self._bus.tail()
        except Exception as exc:
            await self._back_off(exc)
            return
        self._begin_at(position)
        await self._spread([one.reset for one in self._listeners], position)

    async def _spread(self, calls: Iterable[Callable[[T, float], int]], news: T) -> None:
        """Make all `calls` with `news`; everything else gets its turn after each slice of time."""
        loop, task, clock = self._loop, asyncio.current_task(), time.monotonic
        assert task is not None
        waiting, sent = iter(calls), 0
        self.is_spreading = is_more = True
        try:
            while is_more:
                now, ends_at = loop.time(), clock() + SLICE
                is_more = False
                # Each send runs in the name of its subscriber's task, not in that of this one.
                _leave_task(loop, task)
                try:
                    for number, call in enumerate(waiting, 1):
                        sent += call(news, now)
                        if not number % _LOOK_EVERY and clock() > ends_at:
                            is_more = True
                            break
                finally:
                    _enter_task(loop, task)
                if is_more:
                    await asyncio.sleep(0)
        finally:
            self.is_spreading = False
            self.delivered += sent

    def _asked(
        self, key: Position | None, ask: Callable[[], Coroutine[Any, Any, T]]
    ) -> "asyncio.Task[T]":
        task = self._questions.get(key)
        if task is None:
            task = asyncio.create_task(self._ask(ask), name=f"hub {self._name} asks its bus")
            self._questions[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        return task

    def _forget(self, key: Position | None, task: "asyncio.Task[Any]") -> None:
        self._questions.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen, also when all who asked have left

    async def _ask(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        attempt = 0
        while True:
            try:
                async with self._fetching:
                    return await ask()
            except HistoryLost:
                raise
            except Exception as exc:
                _log.debug("hub %r: the bus was asked in vain (%r)", self._name, exc)
                attempt += 1
                await asyncio.sleep(_pause(attempt))

    # A bus that fails ---------------------------------------------------------------------

    async def _back_off(self, exc: Exception) -> None:
        if self._failing_since is None:
            self._failing_since = self._loop.time()
            cause = f"{type(exc).__name__}: {exc}"
            _log.warning("hub %r cannot read its bus and tries on: %s", self._name, cause)
            self._events.emit(BusLost(self._name, cause))
        self._attempts += 1
        await asyncio.sleep(_pause(self._attempts))

    def _is_back(self) -> None:
        if self._failing_since is not None:
            seconds = self._loop.time() - self._failing_since
            self._failing_since, self._attempts = None, 0
            _log.info("hub %r reads its bus again, after %.1f s", self._name, seconds)
            self._events.emit(BusRegained(self._name, seconds))


def _pause(attempt: int) -> float:
    """Return the seconds before the next attempt: doubled each time, with jitter."""
    first, most = _BACKOFF
    return float(min(most, first * 2 ** min(attempt - 1, 16)) * random.uniform(0.5, 1.0))
