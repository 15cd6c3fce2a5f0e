"""`Threads`: capacity for blocking work, where a place is held until the thread really ends."""

import asyncio
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from stormproof._arguments import check_count, check_seconds
from stormproof._core.clock import MONOTONIC, Clock
from stormproof._core.deadline import remaining
from stormproof._core.lifecycle import Lifecycle, Loss
from stormproof._core.place import innermost_place
from stormproof._core.primitives import register
from stormproof.errors import DeadlineExceeded, ThreadsClosed, ThreadsFull

from ._workers import Workers

P = ParamSpec("P")
T = TypeVar("T")

_QUEUE_PER_PLACE = 10
_NEWS = 0.1  # the weight of the last function in the mean
_POLL = 0.02  # seconds between two looks at the running threads; only during a drain

_log = logging.getLogger("stormproof")


@dataclass(frozen=True, slots=True)
class ThreadStatistics:
    """What a pool of threads is doing and has done.

    Attributes:
        capacity: Places there are.
        in_use: Threads that run now.
        abandoned: Those of them whose caller has gone.
        waiting: Callers in the queue now.
        started: Functions that were started.
        refused: Callers that were turned away: queue full, wait over, or deadline passed.
        mean: Seconds that a function runs, on average of the last ones; None before the first
            has ended.
    """

    capacity: int
    in_use: int
    abandoned: int
    waiting: int
    started: int
    refused: int
    mean: float | None = None


class Threads:
    """Runs blocking functions, at most `capacity` at once; a bounded number waits a bounded time.

    A thread cannot be stopped. When the caller is cancelled, by its deadline for example, the
    caller goes on at once and the thread keeps its place until it ends: so there are never more
    threads than places. A pool per dependency keeps a slow one from taking the threads of all.

    It may be made before any event loop runs and serves one loop at a time. Given to
    `install(app, threads)` it is drained: running threads get the rest of the grace, and those
    that do not end are lost. Threads are used again, and end when they were idle for 0.2 s; they
    are daemons, so one that does not end does not keep the process alive.

    Args:
        capacity: Threads at once; at least 1.
        max_wait: Seconds a caller waits for a place at most; a nearer deadline wins.
        max_queue: Callers that may wait; the next one is refused on arrival. Default: ten times
            the capacity.
        name: What messages and reports call this pool.
        clock: Where the time is read.

    Raises:
        InvalidSetting: A number is of the wrong type or out of its range.

    versionadded: 0.1
    """

    def __init__(
        self,
        capacity: int,
        *,
        max_wait: float = 0.5,
        max_queue: int | None = None,
        name: str = "threads",
        clock: Clock = MONOTONIC,
    ) -> None:
        queue = capacity * _QUEUE_PER_PLACE if max_queue is None else max_queue
        check_count("Threads", capacity=capacity)
        check_count("Threads", least=0, max_queue=queue)
        check_seconds("Threads", or_zero=True, max_wait=max_wait)
        self.name = name
        self._capacity = capacity
        self._max_wait = max_wait
        self._max_queue = queue
        self._clock = clock
        self._workers = Workers(f"stormproof {name}")
        self._running: set[_Job] = set()
        self._queue: deque[asyncio.Future[None]] = deque()
        self._promised = 0  # places handed to waiters that have not gone on yet
        self._started = 0
        self._refused = 0
        self._mean: float | None = None
        self._is_closed = False
        register("threads", self)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function(*args, **kwargs)` in a thread and return its result, or raise its error.

        It sees a copy of the caller's context variables. Waits for a place, then for the thread.
        Cancelled while waiting for a place: nothing runs. Cancelled later: the caller goes on at
        once, the thread runs to its end and its place is held as long; its result is dropped, an
        error of it is logged. So give it nothing that the caller closes, such as its session.

        Raises:
            ThreadsFull: No place came free within `max_wait`, or the queue is full (503).
            DeadlineExceeded: The caller's deadline passed before a place came free (504).
            ThreadsClosed: The pool has been drained (503).
        """
        if self._is_closed:
            raise ThreadsClosed(
                f"threads {self.name!r} are closed: the service has been drained", retry_after=1.0
            )
        await self._place()
        job = _Job(_named(function), self._clock, asyncio.get_running_loop())
        call = partial(copy_context().run, partial(function, *args, **kwargs))
        self._running.add(job)
        try:
            job.start(call, self._workers, self._running, self._ended)
        except BaseException:  # the system has no thread left
            self._running.discard(job)
            self._hand_on()
            raise
        self._started += 1
        try:
            result, error = await job.outcome
        except asyncio.CancelledError:
            job.is_abandoned = True
            raise
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]  # what the thread returned

    def statistics(self) -> ThreadStatistics:
        """Return what runs and waits now, and what was counted since this pool was made."""
        running = tuple(self._running)
        abandoned = sum(job.is_abandoned for job in running)
        return ThreadStatistics(
            capacity=self._capacity,
            in_use=len(running),
            abandoned=abandoned,
            waiting=self._waiting(),
            started=self._started,
            refused=self._refused,
            mean=self._mean,
        )

    # A part of the service ---------------------------------------------------------------

    async def open(self, lifecycle: Lifecycle) -> None:
        """Take calls; a thread of an earlier life that still runs keeps its place."""
        self._clock = lifecycle.clock
        self._is_closed = False

    async def drain(self, until: float) -> Sequence[Loss]:
        """Take no more calls, and wait for the running threads until `until` at the latest.

        Returns those that still run, each with the line it is at. Cancelled: waits no more.
        """
        self._is_closed = True
        # A poll: threads end outside of the loop, and this runs once in a life.
        while self._running and (left := until - self._clock.now()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(_POLL, left))
        now = self._clock.now()
        jobs = tuple(self._running)
        return [Loss("thread", job.name, now - job.started_at, job.described()) for job in jobs]

    async def close(self) -> None:
        """Take no more calls, and let the idle threads end; waits for nothing."""
        self._is_closed = True
        self._workers.dismiss()

    # Places ------------------------------------------------------------------------------

    def _waiting(self) -> int:
        return sum(not waiter.done() for waiter in tuple(self._queue))

    def _has_room(self) -> bool:
        return len(self._running) + self._promised < self._capacity

    async def _place(self) -> None:
        """Wait for a place; on return the caller must take it before its next `await`."""
        left = remaining()
        if left is not None and left <= 0:
            raise self._too_late()
        if self._has_room() and not self._waiting():
            return
        if self._waiting() >= self._max_queue or self._max_wait == 0:
            raise self._full(0.0)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(waiter)
        allowed = self._max_wait if left is None else min(self._max_wait, left)
        began_at = self._clock.now()
        try:
            async with asyncio.timeout(allowed):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                self._promised -= 1  # the place came in the same moment: to the next one
                self._hand_on()
            elif waiter in self._queue:
                self._queue.remove(waiter)
            if not isinstance(error, TimeoutError):
                raise
            if left is not None and left <= self._max_wait:
                raise self._too_late() from None
            raise self._full(self._clock.now() - began_at) from None
        self._promised -= 1

    def _hand_on(self) -> None:
        while self._queue and self._has_room():
            waiter = self._queue.popleft()
            if not waiter.done():
                self._promised += 1
                waiter.set_result(None)

    def _ended(self, job: "_Job", result: Any, error: BaseException | None) -> None:
        """Note in the loop that a thread has ended; its place is free already."""
        took = job.ended_at - job.started_at
        self._mean = took if self._mean is None else self._mean + _NEWS * (took - self._mean)
        if not job.outcome.done():
            job.outcome.set_result((result, error))
        elif error is not None:
            _log.error("%s failed after its caller had gone", job.name, exc_info=error)
        self._hand_on()

    def _full(self, waited: float) -> ThreadsFull:
        self._refused += 1
        return ThreadsFull(
            f"threads {self.name!r} are all at work ({len(self._running)} of {self._capacity}, "
            f"{self._waiting()} waiting, waited {waited:.2f} s); "
            "raise capacity, or make the blocking work shorter",
            retry_after=self._queue_seconds(),
        )

    def _queue_seconds(self) -> float:
        """Return how long the queue of now takes, as far as is known."""
        now = self._clock.now()
        # Nobody knows how long those who run will: at least as long as the last one that began.
        ages = [now - job.started_at for job in tuple(self._running)]
        hold = max(self._mean or 0.0, min(ages, default=0.0))
        return (self._waiting() + 1) * hold / self._capacity

    def _too_late(self) -> DeadlineExceeded:
        self._refused += 1
        return DeadlineExceeded(
            f"the deadline passed before threads {self.name!r} had a place "
            f"({len(self._running)} of {self._capacity} at work); nothing was run",
            retry_after=self._queue_seconds(),
        )


class _Job:
    """One function in its thread."""

    __slots__ = (
        "_clock",
        "_thread",
        "ended_at",
        "is_abandoned",
        "loop",
        "name",
        "outcome",
        "started_at",
    )

    def __init__(self, name: str, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self._clock = clock
        self.started_at = self.ended_at = clock.now()
        self.loop = loop
        self.outcome: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
        self.is_abandoned = False
        self._thread: threading.Thread | None = None

    def start(
        self,
        call: Callable[[], Any],
        workers: Workers,
        running: "set[_Job]",
        tell: Callable[["_Job", Any, BaseException | None], None],
    ) -> None:
        """Call `call` in a worker; leave `running` at its end, and `tell` the loop."""

        def work() -> Callable[[], None]:
            result, error = _outcome(call)
            self.ended_at = self._clock.now()

            def end() -> None:
                # Here and not in the loop, which may be closed: the place is free all the same.
                running.discard(self)
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self.loop.call_soon_threadsafe(tell, self, result, error)

            return end

        self._thread = workers.start(work)

    def described(self) -> str:
        """Return where the thread is, for the report of a drain."""
        thread = 0 if self._thread is None else self._thread.ident or 0
        frame = sys._current_frames().get(thread)
        at = innermost_place(frame) if frame is not None else "its end"
        return f"a thread cannot be stopped; it was at {at}"


def _outcome(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return call(), None
    except BaseException as error:  # it is raised again where it is waited for
        return None, error


def _named(function: Callable[..., Any]) -> str:
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__qualname__", type(function).__name__)
