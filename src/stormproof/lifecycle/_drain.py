"""The drain: one absolute shutdown deadline, and every step spends from it."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from stormproof._core.events import DrainFinished, WorkLost
from stormproof._core.lifecycle import InFlight, Lifecycle, Loss, Part, Phase
from stormproof._core.place import waiting_place
from stormproof.errors import StormproofError

_log = logging.getLogger("stormproof")

_POLL = 0.02
"""Seconds between two looks at what is still in flight; only ever runs during a drain."""

_CLOSE_SHARE = 0.1
_PARTS_SHARE = 0.15
"""Parts of the grace kept back for closing, and for draining the parts before that."""

_STREAM_SPACING = 0.04
_STREAM_ROW = 1.5
"""Seconds between two streams' ends, and the most the whole row may take.

Subscribers that leave one after another also come back one after another. 50 streams take at
least a second, also when two workers have half of them each.
"""

_STREAM_WINDOW = 2.0
"""Seconds that the last streams of the row have to say goodbye in."""

_IDLE_BEFORE_CLOSE = 1.0
"""Seconds a keep-alive connection stays open, idle, after the drain began.

A client may be writing its next request just as the server closes; after a second in which
it saw `Connection: close` on each answer, or sent nothing, that race is gone.
"""

_FIRST_REQUEST_WAIT = 0.5
"""Seconds that a client which had connected as the listener closed has to send its request."""

_SHUTDOWN_BEGINS_WITHIN = 0.5
"""Seconds after which a request is refused: uvicorn looks whether it is to stop every 0.1 s, and
whoever comes in until then is served."""

_LAST_MOMENT = 0.2
"""Seconds the app's own lifespan gets to end even when nothing is left of the grace."""

_FORCED_GRACE = 0.5
"""Seconds that a second signal leaves for cancelled work to run its `finally` blocks."""


class Server(Protocol):
    """What the drain asks of the server it runs under."""

    def stop_listening(self) -> None:
        """Close the listener, if the server can do so alone; connections stay."""
        ...

    def begin_shutdown(self) -> None:
        """Let the server close its idle connections and go on to the end of the lifespan."""
        ...

    def has_connections(self) -> bool:
        """Whether any client is connected."""
        ...

    def has_new_connections(self) -> bool:
        """Whether a client has connected whose first request has not arrived."""
        ...

    def abort_connections(self, tasks: Iterable["asyncio.Task[object]"]) -> None:
        """Drop the connections that are left, and wait for none of `tasks`."""
        ...

    def note_loss(self) -> None:
        """Let the process exit with 3, if the server has a way to."""
        ...


class NoServer:
    """Under a server that cannot be asked: it has closed its listener before we are told."""

    def stop_listening(self) -> None:
        """Do nothing."""

    def begin_shutdown(self) -> None:
        """Do nothing."""

    def has_connections(self) -> bool:
        """Return False: unknown."""
        return False

    def has_new_connections(self) -> bool:
        """Return False: unknown."""
        return False

    def abort_connections(self, tasks: Iterable["asyncio.Task[object]"]) -> None:
        """Do nothing."""

    def note_loss(self) -> None:
        """Do nothing."""


class Drain:
    """The end of one life of the service, begun once and never undone.

    Args:
        lifecycle: The state that everybody reads.
        parts: The parts, in the order they were opened.

    Attributes:
        start_error: Why the start failed, for the server's log; None if it did not.
        is_commanded: Whether the server begins this drain by itself, so that signals are its own
            affair: `drain_on_signals` then leaves them alone.
        is_ending_streams: Whether a stream that opens now is to leave at once.
        is_reported: Whether `report` has been called.
    """

    def __init__(self, lifecycle: Lifecycle, parts: Sequence[Part] = ()) -> None:
        self.lifecycle = lifecycle
        self.parts = tuple(parts)
        self.is_commanded = False
        self.restart()

    def restart(self) -> None:
        """Make ready for a new life of the same app."""
        self.start_error: StormproofError | None = None
        self._began_at = 0.0
        self._refuses_at = math.inf
        self._is_forced = False
        self._is_finishing = False
        self.is_ending_streams = False
        self.is_reported = False
        self._stuck: list[asyncio.Task[object]] = []
        self._server: Server = NoServer()
        self._front: asyncio.Task[None] | None = None
        self._teardown: asyncio.Timeout | None = None

    @property
    def is_refusing(self) -> bool:
        """Whether new requests get 503: the listener should be closed by now, and yet they come."""
        # The first test is for the life before a drain: it spares each request the clock.
        return self._refuses_at != math.inf and self.lifecycle.clock.now() >= self._refuses_at

    def begin(self, server: Server | None = None, *, prestop: float | None = None) -> None:
        """Begin to drain: readiness turns 503 and the lame duck starts. Again: does nothing.

        Returns at once; the front half (lame duck, streams, listener, requests) runs as a
        task of this drain, which `finish` awaits.

        Args:
            server: The server to close once the lame duck is over.
            prestop: Seconds of lame duck, instead of the lifecycle's. None is spent on a service
                that was not ready yet: nobody was told to send it anything.
        """
        if self._front is not None:
            return
        lifecycle = self.lifecycle
        if lifecycle.phase is Phase.STARTING:
            prestop = 0.0
        self._began_at = lifecycle.clock.now()
        self._server = server or NoServer()
        lifecycle.shutdown_at = self._began_at + lifecycle.grace
        lifecycle.enter(Phase.DRAINING)
        duck = lifecycle.prestop if prestop is None else prestop
        _log.info(
            "draining: requests open: %d (streams: %d); lame duck %g s, all over in %g s",
            len(lifecycle.requests), len(lifecycle.streams), duck, lifecycle.grace,
        )  # fmt: skip
        self._front = asyncio.create_task(self._drain_front(duck), name="stormproof drain")

    def force(self) -> None:
        """Give up waiting: what is left is cancelled now, and gets a moment to clean up."""
        if self._is_forced:
            return
        self._is_forced = True
        self.lifecycle.shutdown_at = self.lifecycle.clock.now() + _FORCED_GRACE
        _log.warning("second signal: cutting what is left")
        if self.lifecycle.phase is Phase.STOPPING:
            self._limit_teardown()

    async def finish(self) -> None:
        """Wait for the front half, then drain the parts: the lifespan's side of the drain.

        Begins the drain, without a lame duck, when no signal did: the server has closed its
        listener by itself. Ends by the shutdown deadline. Cancelled: the front half is
        cancelled and awaited, and parts are closed without being drained.
        """
        self._is_finishing = True
        self.begin(prestop=0.0)
        front = self._front
        assert front is not None  # begin() made it
        try:
            await front
        except asyncio.CancelledError:
            front.cancel()
            await asyncio.wait([front])
            raise
        for part in reversed(self.parts):
            await self._drain_part(part)
        self.lifecycle.enter(Phase.STOPPING)
        self._limit_teardown()

    @asynccontextmanager
    async def bounded_teardown(self) -> AsyncIterator[None]:
        """Give what is torn down inside the block after `finish` its share of the grace.

        That is the app's own lifespan: cancelled when the time is over, it is awaited, and
        noted as a loss; the parts are closed all the same.
        """
        try:
            async with asyncio.timeout(None) as self._teardown:
                yield
        except TimeoutError:
            if self._teardown is None or not self._teardown.expired():
                raise
            _log.error("the app's own lifespan did not end in time and was cancelled")
            self.lifecycle.losses.append(Loss("part", "lifespan", 0.0, "did not end in time"))
        finally:
            self._teardown = None

    async def abandon(self) -> None:
        """End a drain that no `finish` has awaited, because the start failed; else do nothing."""
        front = self._front
        if front is not None and not front.done():
            front.cancel()
            await asyncio.wait([front])

    def has_stuck_work(self) -> bool:
        """Return whether the drain is not over, or something it cut has not ended."""
        is_over = self._front is None or self._front.done()
        return not is_over or any(not task.done() for task in self._stuck)

    def note_unfinished(self) -> None:
        """Add what is open now to the losses, for a report in the middle of the drain."""
        for entry in tuple(self.lifecycle.requests):
            if not entry.is_cut:
                self._note_loss(entry)

    def report(self) -> None:
        """Say in the log and by events what was cut; called when every part is closed."""
        lifecycle = self.lifecycle
        self.is_reported = True
        seconds = lifecycle.clock.now() - self._began_at
        for loss in lifecycle.losses:
            lifecycle.events.emit(WorkLost(loss.kind, loss.name, loss.age, loss.detail))
            _log.error(
                "lost %s %r after %.1f s: %s", loss.kind, loss.name, loss.age, loss.detail
            )  # fmt: skip
        if lifecycle.losses:
            self._server.note_loss()
        lifecycle.events.emit(DrainFinished(seconds, len(lifecycle.losses)))
        _log.info("drained in %.1f s, %d lost", seconds, len(lifecycle.losses))

    async def _drain_front(self, prestop: float) -> None:
        duck_ends_at = self._began_at + prestop
        await self._wait(lambda: False, lambda: min(duck_ends_at, self._requests_until()))
        await self._end_streams()
        if prestop > 0:
            idle_until = self._began_at + _IDLE_BEFORE_CLOSE
            await self._wait(self._no_connections, lambda: min(idle_until, self._requests_until()))
        self._server.stop_listening()
        await self._wait(self._no_new_connections, _from_now(self, _FIRST_REQUEST_WAIT))
        self._server.begin_shutdown()
        self._refuses_at = self.lifecycle.clock.now() + _SHUTDOWN_BEGINS_WITHIN
        # Also while no request is open the server may be held up, by a reader that stalls.
        await self._wait(self._is_server_done, self._requests_until)
        await self._cut_requests()

    def _is_server_done(self) -> bool:
        return self._is_finishing and not self.lifecycle.requests

    def _no_connections(self) -> bool:
        return not self._server.has_connections()

    def _no_new_connections(self) -> bool:
        return not self._server.has_new_connections()

    async def _end_streams(self) -> None:
        """Ask each stream in turn to send its last event, and wait until all have left."""
        self.is_ending_streams = True
        places = sorted(self.lifecycle.streams, key=lambda place: place.started_at)
        if not places:
            return
        spacing = min(_STREAM_SPACING, _STREAM_ROW / len(places))
        for place in places:
            place.leave.set()
            await self._wait(lambda: False, _from_now(self, spacing))
        for place in self.lifecycle.streams:
            place.leave.set()  # who came in while the others left
        await self._wait(lambda: not self.lifecycle.streams, _from_now(self, _STREAM_WINDOW))

    async def _cut_requests(self) -> None:
        """Cancel what has not ended in its share of the grace, and drop stuck connections."""
        cut = list(self.lifecycle.requests)
        for entry in cut:
            self._note_loss(entry)
            entry.is_cut = True
            if entry.task is not None:
                entry.task.cancel()
        await self._wait(lambda: not self.lifecycle.requests, _from_now(self, _FORCED_GRACE))
        stuck = [entry for entry in self.lifecycle.requests if entry.task is not None]
        for entry in stuck:
            _log.error(
                "%s does not end although it was cancelled: it waits at %s",
                entry.name, _place(entry),
            )  # fmt: skip
        self._stuck = [entry.task for entry in stuck if entry.task is not None]
        if cut or not self._is_finishing:
            self._server.abort_connections(self._stuck)

    def _note_loss(self, entry: InFlight) -> None:
        if entry.is_answered and (entry.status or 0) >= 500:
            return  # the caller was told that it failed: nothing was promised
        kind = "background" if entry.is_answered else "request"
        age = self.lifecycle.clock.now() - entry.started_at
        detail = f"cut by the drain; it waited at {_place(entry)}"
        self.lifecycle.losses.append(Loss(kind, entry.name, age, detail))

    async def _drain_part(self, part: Part) -> None:
        work = asyncio.create_task(_drained(part, self._parts_until()), name=f"drain {part.name}")
        where = ""
        try:
            await self._wait(work.done, self._parts_until)
            if not work.done():
                # One tick of mercy: a part that keeps to its time ends just about now.
                await self._wait(work.done, _from_now(self, _POLL * 5))
            where = "" if work.done() else waiting_place(work)
        finally:
            work.cancel()
            await asyncio.wait([work], timeout=_FORCED_GRACE)
        if not work.done() or work.cancelled():
            detail = f"did not drain in time; it waited at {where}"
            self.lifecycle.losses.append(Loss("part", part.name, self._age(), detail))
        elif (error := work.exception()) is not None:
            _log.error("part %r failed to drain", part.name, exc_info=error)
            detail = f"drain: {type(error).__name__}: {error}"
            self.lifecycle.losses.append(Loss("part", part.name, self._age(), detail))
        else:
            self.lifecycle.losses.extend(work.result())

    def _age(self) -> float:
        return self.lifecycle.clock.now() - self._began_at

    async def _wait(self, is_done: Callable[[], bool], until: Callable[[], float]) -> None:
        """Wait until `is_done()` or the absolute time `until()`, which a force brings forward."""
        # A poll, because what ends the wait are many things, and the end itself may move.
        while not is_done() and (left := until() - self.lifecycle.clock.now()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(_POLL, left))

    def _limit_teardown(self) -> None:
        if self._teardown is not None and not self._teardown.expired():
            left = max(_LAST_MOMENT, self._parts_until() - self.lifecycle.clock.now())
            self._teardown.reschedule(asyncio.get_running_loop().time() + left)

    def _parts_until(self) -> float:
        return self._shutdown_at() - _CLOSE_SHARE * self._share_of()

    def _requests_until(self) -> float:
        return self._shutdown_at() - (_CLOSE_SHARE + _PARTS_SHARE) * self._share_of()

    def _share_of(self) -> float:
        # Forced, the requests' share is over at once and the rest of the moment is for clean-up.
        return 4 * _FORCED_GRACE if self._is_forced else self.lifecycle.grace

    def _shutdown_at(self) -> float:
        assert self.lifecycle.shutdown_at is not None  # begin() set it
        return self.lifecycle.shutdown_at


async def _drained(part: Part, until: float) -> Sequence[Loss]:
    return await part.drain(until)


def _place(entry: InFlight) -> str:
    # granian hands out one task for all requests, which is none of asyncio's.
    return waiting_place(entry.task) if isinstance(entry.task, asyncio.Task) else "unknown"


def _from_now(drain: Drain, seconds: float) -> Callable[[], float]:
    """Return an `until` that is `seconds` from now, but never past the requests' share + 0.5 s."""
    at = drain.lifecycle.clock.now() + seconds
    return lambda: min(at, drain._shutdown_at())
