"""Services: endless work that is started again when it fails, and tells when that is no use."""

import asyncio
import functools
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from stormproof._core.clock import Clock

T = TypeVar("T")

Restart: TypeAlias = Literal["never", "on_failure", "always"]
"""When a service is started again: never, when it raised, or also when it returned."""

_LONGEST_PAUSE = 30.0
_RECOVERED_AFTER = 60.0
"""Seconds after which a run counts as a success, so that its end begins a new row of failures."""


@dataclass(frozen=True, slots=True)
class ServiceFailure:
    """One failure of a service.

    Attributes:
        error: What it raised.
        lasted: Seconds that this run took.
        in_a_row: How many runs have failed without a success between them.
        pause: Seconds until the next run; None: there is none.
    """

    error: BaseException
    lasted: float
    in_a_row: int
    pause: float | None


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When to start a service again, how long to wait before it, and how often at most."""

    restart: Restart
    backoff: float
    max_restarts: int | None

    def pause_after(self, failures: int) -> float | None:
        """Return the seconds to wait after the `failures`-th failure in a row; None: give up."""
        if self.restart == "never":
            return None
        if self.max_restarts is not None and failures > self.max_restarts:
            return None
        # Jitter: the instances of a service that lost the same database do not come back as one.
        longest = min(_LONGEST_PAUSE, self.backoff * 2.0 ** min(failures - 1, 30))
        return longest * random.uniform(0.5, 1.0)


async def keep_running(
    call: "functools.partial[Coroutine[Any, Any, T]]",
    policy: RestartPolicy,
    clock: Clock,
    tell: Callable[[ServiceFailure], None],
) -> T:
    """Run `call` again and again, as `policy` says; returns or raises what the last run did.

    Each failure is told. Cancelled: the run, or the pause, is cancelled.
    """
    failures = 0
    while True:
        began_at = clock.now()
        try:
            result = await call()
        except (Exception, asyncio.CancelledError) as error:
            if _is_ours(error):
                raise
            lasted = clock.now() - began_at
            failures = 1 if lasted >= _RECOVERED_AFTER else failures + 1
            pause = policy.pause_after(failures)
            tell(ServiceFailure(error, lasted, failures, pause))
            if pause is None:
                if isinstance(error, Exception):
                    raise
                raise RuntimeError("what it waited for was cancelled, but not it") from error
        else:
            if policy.restart != "always":
                return result
            failures, pause = 0, policy.backoff
        await asyncio.sleep(pause)


def _is_ours(error: BaseException) -> bool:
    """Whether `error` is the cancellation of this task, and not of something it waited for."""
    task = asyncio.current_task()
    is_cancelled = isinstance(error, asyncio.CancelledError)
    return is_cancelled and task is not None and task.cancelling() > 0
