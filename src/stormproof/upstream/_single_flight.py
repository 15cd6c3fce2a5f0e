"""Single flight: many who want the same thing at once share one call for it."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from stormproof._arguments import check_seconds
from stormproof._core.deadline import Deadline, context_without_deadline, in_force, remaining
from stormproof.errors import DeadlineExceeded, UpstreamFailed, UpstreamTimeout

from ._clock import LoopClock

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Makes one call for all who ask for the same key while it is under way.

    The call (the flight) belongs to nobody of them: it runs in a task of its own, with a
    deadline of its own, and ends for one who leaves only when nobody waits for it any more.
    So a leader whose client hangs up, or who has little time left, fails nobody but itself.
    When nobody waits any more the flight is cancelled, and awaited by the last who left.

    Use it in `async with`, or `close` it: that cancels and awaits what is still under way.

    Args:
        timeout: Seconds a flight may take.
        name: What errors call it.

    Raises:
        InvalidSetting: `timeout` is out of its range.

    Source: golang.org/x/sync, `singleflight` (the sharing; its leader's context is not shared
    here).

    versionadded: 0.1
    """

    def __init__(self, *, timeout: float = 10.0, name: str = "flight") -> None:
        check_seconds("SingleFlight", timeout=timeout)
        self._timeout = timeout
        self._name = name
        self._flights: dict[Hashable, _Flight[T]] = {}
        self._tasks: set[asyncio.Task[T]] = set()

    @property
    def flying(self) -> int:
        """How many calls are under way."""
        return len(self._flights)

    async def do(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> T:
        """Return what `call` returns, or what the flight for `key` that is under way returns.

        Waits for the flight, and never past the deadline in force here. Cancelled: the flight
        goes on for the others; without others it is cancelled and awaited.

        Args:
            key: What is asked for; everything that changes the answer must be in it.
            call: Makes the call; only the first one's is used.

        Raises:
            Exception: What the call raised, for all who wait for it.
            UpstreamTimeout: The flight took longer than `timeout` (504).
            DeadlineExceeded: The deadline in force here passed; the flight may go on (504).
        """
        left = remaining()
        if left is not None and left <= 0:
            raise self._out_of_time(key)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = self._begin(key, call)
        flight.waiting += 1
        try:
            # asyncio.wait: it neither cancels the flight nor raises what that raised.
            done, _ = await asyncio.wait((flight.task,), timeout=left)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                await self._reap(key, flight)
        if not done:
            raise self._out_of_time(key)
        if flight.task.cancelled():
            raise UpstreamFailed(
                f"flight {key!r} of {self._name!r} was cancelled, from inside or by close()"
            )
        return flight.task.result()

    async def close(self) -> None:
        """Cancel and await what is under way; those who wait for it get `UpstreamFailed`."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _begin(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> "_Flight[T]":
        context: Context = context_without_deadline()
        task = asyncio.get_running_loop().create_task(
            self._fly(key, call), name=f"{self._name} {key!r}", context=context
        )
        self._tasks.add(task)
        flight: _Flight[T] = _Flight(task)

        def landed(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            self._forget(key, flight)
            if not task.cancelled():
                task.exception()  # seen: whoever waits raises it, and perhaps nobody does

        task.add_done_callback(landed)
        return flight

    async def _fly(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> T:
        clock = LoopClock()
        with in_force(Deadline(clock.now() + self._timeout, clock=clock)):
            limit = asyncio.timeout(self._timeout)
            try:
                async with limit:
                    return await call()
            except TimeoutError as exc:
                if not limit.expired():
                    raise
                raise UpstreamTimeout(
                    f"flight {key!r} of {self._name!r} was not done in {self._timeout:.3f} s"
                ) from exc

    async def _reap(self, key: Hashable, flight: "_Flight[T]") -> None:
        """Cancel a flight that nobody waits for, and await its end; later ones begin anew."""
        self._forget(key, flight)
        flight.task.cancel()
        await asyncio.wait((flight.task,))

    def _forget(self, key: Hashable, flight: "_Flight[T]") -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    def _out_of_time(self, key: Hashable) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the deadline passed before flight {key!r} of {self._name!r} was done; "
            "allow the request more time or the flight less"
        )


class _Flight(Generic[T]):
    """A call under way, and how many wait for it."""

    __slots__ = ("task", "waiting")

    def __init__(self, task: "asyncio.Task[Any]") -> None:
        self.task: asyncio.Task[T] = task
        self.waiting = 0
