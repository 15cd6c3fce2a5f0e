"""Hedges: a second attempt beside a slow first one; the first good answer wins."""

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias

from stormproof._arguments import check_count, check_seconds
from stormproof.errors import InvalidSetting

from ._latency import RotatingQuantile
from ._outcome import Outcome

_MOST_SCARCE = 10.0

_Task: TypeAlias = asyncio.Task[Outcome]


@dataclass(frozen=True, slots=True)
class Hedge:
    """When an idempotent call is slow enough to be sent a second time.

    After `factor` x the `quantile` of what calls of this operation took lately, and no sooner
    than `min_delay`. With `factor` 1 and the p95 a twentieth of all calls is sent twice; with
    1.5 only those that are out of the ordinary are. There is no hedge before `min_calls` were seen.
    When less than half of the budget is left the delay grows, up to tenfold, so that the rest
    goes to the slowest calls and not to those that are a little late on a busy machine.

    An operation is a method, a host and a path without its ids (segments with a digit, or of
    more than 24 characters), or what the caller says: `get("/users/ada", operation="user")`.
    64 are kept apart, all others share one.

    An attempt that was given up counts for what it had taken by then, if that was longer than
    the delay: otherwise each hedge that wins would make the next one come sooner.

    Args:
        quantile: Which quantile of the latency, above 0 and below 1.
        factor: What it is multiplied by.
        min_delay: Seconds, the shortest delay.
        window: Seconds that the quantile looks back.
        min_calls: Calls in the window without which there is no hedge.

    Raises:
        InvalidSetting: A number is out of its range.

    Source: Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013 (hedged requests).

    versionadded: 0.1
    """

    quantile: float = 0.95
    _: KW_ONLY
    factor: float = 1.5
    min_delay: float = 0.005
    window: float = 30.0
    min_calls: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise InvalidSetting(f"Hedge(quantile={self.quantile!r}) must be between 0 and 1")
        check_count("Hedge", min_calls=self.min_calls)
        if not 0 < self.factor < math.inf:
            raise InvalidSetting(f"Hedge(factor={self.factor!r}) must be finite and above 0")
        check_seconds("Hedge", min_delay=self.min_delay, window=self.window)

    def delay(self, latency: RotatingQuantile, *, budget_left: float = 1.0) -> float | None:
        """Return the seconds after which a call is sent again; None: it is not.

        Args:
            latency: What such calls took lately.
            budget_left: The share of the budget that is left, 0 to 1.
        """
        if latency.total < self.min_calls:
            return None
        usual = latency.quantile(self.quantile)
        if usual is None:
            return None
        scarcity = min(_MOST_SCARCE, 0.5 / budget_left) if 0 < budget_left < 0.5 else 1.0
        return max(self.min_delay, self.factor * usual) * scarcity


async def first_good(
    first: Callable[[], Coroutine[Any, Any, Outcome]],
    second: Callable[[], Coroutine[Any, Any, Outcome]],
    *,
    delay: float,
    may_hedge: Callable[[], bool],
) -> tuple[Outcome, bool]:
    """Return the first good outcome of `first` and, if that takes `delay` seconds, `second`.

    A failure does not win while the other is pending; when both fail, an answer is preferred to
    an error, and the first to the second. The loser is cancelled, and has ended when this
    returns. Cancelled: both are cancelled and awaited.

    Args:
        first: Makes the first attempt; it raises nothing.
        second: Makes the second one.
        delay: Seconds to wait for the first alone.
        may_hedge: Asked once, when the delay is over.

    Returns:
        The outcome, and whether it is that of the second.
    """
    # A task group, because it awaits what it cancelled also when it is cancelled meanwhile.
    async with asyncio.TaskGroup() as group:
        tasks: list[_Task] = [group.create_task(first())]
        winner = tasks[0]
        await asyncio.wait(tasks, timeout=delay)
        if not winner.done():
            if may_hedge():
                tasks.append(group.create_task(second()))
            winner = await _winner(tasks)
            for task in tasks:
                task.cancel()
    return winner.result(), winner is not tasks[0]


async def _winner(tasks: Sequence[_Task]) -> _Task:
    pending = set(tasks)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task in done and not task.cancelled() and task.result().is_good:
                return task
    ended = [task for task in tasks if not task.cancelled()] or [tasks[0]]
    answered = (task for task in ended if task.result().error is None)
    return next(answered, ended[0])
