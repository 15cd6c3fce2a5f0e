"""The block `deadline(seconds)`: what is inside ends in time, or raises `DeadlineExceeded`."""

import asyncio
import math
from types import TracebackType

from stormproof._core.clock import MONOTONIC, Clock
from stormproof._core.deadline import Deadline, current_deadline, in_force
from stormproof.errors import DeadlineExceeded, InvalidSetting

_OUTER_FIRST = 0.002  # seconds; uvloop counts in whole milliseconds


def deadline(seconds: float, *, clock: Clock = MONOTONIC) -> "_Block":
    """Limit the block `async with deadline(seconds):` to `seconds`, or to what is left outside.

    Inside, `remaining()` counts down to the nearer of this deadline and the one around it.
    When it passes, the task is cancelled once; after the block has cleaned up,
    `DeadlineExceeded` is raised. The block is awaited to its end, so code that is slow to clean
    up ends late; and code that ends late with a *result* raises all the same, where
    `asyncio.timeout` and `wait_for` return it. A cancellation or a `TimeoutError` that is not
    this deadline's passes through untouched.

    Args:
        seconds: How long the block may take; 0 has passed already, `math.inf` adds no limit.
        clock: Where the time is read; it must go as fast as the event loop's.

    Returns:
        An asynchronous context manager, for one use, which gives the `Deadline` in force inside.

    Raises:
        InvalidSetting: `seconds` is negative or not a number.
        DeadlineExceeded: From the block's end: the deadline had passed.

    versionadded: 0.1
    """
    if not seconds >= 0:
        raise InvalidSetting(f"deadline(seconds={seconds!r}) must be a number of 0 or more")
    return _Block(seconds, clock)


class _Block:
    """One use of `deadline(seconds)`."""

    __slots__ = (
        "_cancelling",
        "_clock",
        "_deadline",
        "_fired",
        "_force",
        "_seconds",
        "_started_at",
        "_task",
        "_timer",
    )

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._seconds = seconds
        self._clock = clock

    async def __aenter__(self) -> Deadline:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("deadline() must be used inside a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._fired = False
        self._started_at = self._clock.now()
        at = self._started_at + self._seconds
        self._deadline = Deadline(
            at, clock=self._clock, outer=current_deadline(), on_change=self._set_timer
        )
        self._timer: asyncio.TimerHandle | None = None
        self._set_timer()
        self._force = in_force(self._deadline)
        self._force.__enter__()
        return self._deadline

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._force.__exit__(None, None, None)
        self._deadline.on_change = None
        if self._timer is not None:
            self._timer.cancel()
        # Each cancel() is taken back by who asked for it: what is left over is someone else's.
        is_alone = self._fired and self._task.uncancel() <= self._cancelling
        if kind is None:
            is_late = self._fired or self._deadline.remaining() <= 0
        else:
            is_late = is_alone and issubclass(kind, asyncio.CancelledError)
        if is_late:
            raise self._exceeded() from error

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        left = self._deadline.remaining()
        if self._fired or left == math.inf:
            return
        outer = self._deadline.outer
        if outer is not None and outer.at <= self._deadline.at:
            left += _OUTER_FIRST  # whoever owns it cancels first; if nobody does, we do
        self._timer = asyncio.get_running_loop().call_later(max(0.0, left), self._fire)

    def _fire(self) -> None:
        self._fired = True
        self._task.cancel()

    def _exceeded(self) -> DeadlineExceeded:
        took = self._clock.now() - self._started_at
        return DeadlineExceeded(
            f"a block limited to {self._seconds:g} s, or to what the request had left, "
            f"ended after {took:.3f} s; make it faster or give deadline() more seconds"
        )
