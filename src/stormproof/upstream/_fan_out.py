"""The fan-out: several parts at once, some needed and some not, with nothing left behind."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeAlias, TypeVar

from stormproof._arguments import check_seconds
from stormproof._core.deadline import Deadline, bounded, current_deadline, in_force, remaining
from stormproof.errors import InvalidSetting, UpstreamFailed, UpstreamTimeout

from ._clock import LoopClock

T = TypeVar("T")
Part: TypeAlias = Callable[[], Awaitable[T]]


@dataclass(frozen=True, slots=True)
class FanOut(Generic[T]):
    """What a fan-out brought, by name, in the order of the calls.

    Attributes:
        values: What the parts returned, or the fallback of those that failed.
        errors: Why parts failed, also of those that have a fallback.
    """

    values: Mapping[str, T]
    errors: Mapping[str, Exception]

    @property
    def is_complete(self) -> bool:
        """Whether every part succeeded."""
        return not self.errors


async def fan_out(
    calls: Mapping[str, Part[T]],
    *,
    required: Collection[str] = (),
    fallback: Mapping[str, T] | None = None,
    timeout: float | None = None,
    width: int | None = None,
) -> FanOut[T]:
    """Make calls at once, return what came, and raise only for what is required.

    Waits until every call has ended, at most min(`timeout`, the remaining deadline) seconds,
    which is also the deadline inside of each call; then the rest is cancelled and awaited. A
    required call that fails cancels the rest, awaits it, and its error is raised. Cancelled:
    all calls are cancelled and awaited.

    Args:
        calls: Functions without arguments by name; each is called when it is its turn.
        required: Names whose failure fails the whole.
        fallback: Values by name for optional calls that fail.
        timeout: Seconds for all together; None: the deadline alone.
        width: How many run at once, in order; None: all.

    Raises:
        Exception: What a required call raised first; `UpstreamTimeout` when it was not done in
            time (504).
        InvalidSetting: A name is not in `calls`, both required and with a fallback, or a number
            is out of its range.

    Source: Nathaniel J. Smith, "Notes on structured concurrency", 2018.

    versionadded: 0.1
    """
    fallback = fallback or {}
    _check(calls, required, fallback, timeout, width)
    errors = {}
    values = {}
    ended = await run_parts(calls, required=required, seconds=_seconds(timeout), width=width)
    for name in calls:
        result = ended[name]
        if result.error is None:
            values[name] = result.value
            continue
        errors[name] = result.error
        if name in fallback:
            values[name] = fallback[name]
    return FanOut(MappingProxyType(values), MappingProxyType(errors))


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """How one part ended: with a value, or with an error."""

    value: Any = None
    error: Exception | None = None


async def run_parts(
    calls: Mapping[str, Part[T]],
    *,
    required: Collection[str],
    seconds: float,
    width: int | None,
) -> dict[str, Result[T]]:
    """Return the results by name; raise the first error of a required part, when all has ended."""
    if not calls:
        return {}
    work = _Work(calls, required)
    if seconds <= 0:
        return work.results(0.0)
    # A task group, because it awaits what it cancelled also when it is cancelled meanwhile.
    async with asyncio.TaskGroup() as group:
        with in_force(_deadline(seconds)):
            workers = [
                group.create_task(work.proceed(), name=f"fan-out to {', '.join(calls)}")
                for _ in range(min(len(calls), width or len(calls)))
            ]
        try:
            async with asyncio.timeout(None if seconds == math.inf else seconds):
                await work.is_over
        except TimeoutError:
            pass
        for worker in workers:
            worker.cancel()
    return work.results(seconds)


class _Work(Generic[T]):
    """The parts that wait for a worker, and the results of those that ended."""

    def __init__(self, calls: Mapping[str, Part[T]], required: Collection[str]) -> None:
        self._calls = calls
        self._required = frozenset(required)
        self._waiting: Iterator[str] = iter(calls)
        self._ended: dict[str, Result[T]] = {}
        self._failure: Exception | None = None
        self.is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def proceed(self) -> None:
        """Do one waiting part after another; cancelled: the part under way is."""
        for name in self._waiting:
            if self.is_over.done():
                return
            self._note(name, await _result(name, self._calls[name]))

    def _note(self, name: str, result: Result[T]) -> None:
        self._ended[name] = result
        has_failed = result.error is not None and name in self._required
        if has_failed and self._failure is None:
            self._failure = result.error
        is_over = has_failed or len(self._ended) == len(self._calls)
        if is_over and not self.is_over.done():
            self.is_over.set_result(None)

    def results(self, seconds: float) -> dict[str, Result[T]]:
        """Return all results; what has not ended was late. Raise what a required part failed by."""
        for name in self._calls:
            if name not in self._ended and self._failure is None:
                late = UpstreamTimeout(
                    f"part {name!r} of a fan-out was not done in {seconds:.3f} s"
                )
                self._ended[name] = Result(error=late)
        failures = (self._ended[name].error for name in self._calls if name in self._required)
        failure = self._failure or next((error for error in failures if error), None)
        if failure is not None:
            raise failure
        return self._ended


async def _result(name: str, call: Part[T]) -> Result[T]:
    try:
        return Result(await call())
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody cancelled the part: it awaited something that somebody else cancelled.
        error = UpstreamFailed(f"part {name!r} of a fan-out was cancelled from inside")
        error.__cause__ = exc
        return Result(error=error)
    except Exception as exc:
        return Result(error=exc)


def _deadline(seconds: float) -> Deadline | None:
    outer = current_deadline()
    if seconds == math.inf:
        return outer
    clock = LoopClock() if outer is None else outer.clock
    return Deadline(clock.now() + seconds, clock=clock, outer=outer)


def _seconds(timeout: float | None) -> float:
    if timeout is not None:
        return bounded(timeout)
    left = remaining()
    return math.inf if left is None else max(0.0, left)


def _check(
    calls: Mapping[str, object],
    required: Collection[str],
    fallback: Mapping[str, object],
    timeout: float | None,
    width: int | None,
) -> None:
    check_names(calls, required)
    for name in fallback:
        if name not in calls or name in required:
            raise InvalidSetting(f"fallback has {name!r}, which is not one of the optional calls")
    check_seconds("fan_out", or_none=True, timeout=timeout)
    check_width(width)


def check_names(calls: Collection[str], required: Collection[str]) -> None:
    """Raise `InvalidSetting` when a required name is not one of the calls."""
    if isinstance(required, str):
        raise InvalidSetting(f"required={required!r} must be a collection of names, not one")
    for name in required:
        if name not in calls:
            raise InvalidSetting(f"required has {name!r}, which is not one of the calls")


def check_width(width: int | None) -> None:
    """Raise `InvalidSetting` when so many at once make no sense."""
    if width is not None and width < 1:
        raise InvalidSetting(f"width={width!r} must be 1 or more")
