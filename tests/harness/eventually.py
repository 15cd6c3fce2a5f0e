"""Waiting for a condition in another process, which no event of ours can announce."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

_POLL = 0.01


@overload
async def until(
    predicate: Callable[[], Awaitable[T]], timeout: float = 5.0, *, what: str | None = None
) -> T: ...


@overload
async def until(
    predicate: Callable[[], T], timeout: float = 5.0, *, what: str | None = None
) -> T: ...


async def until(
    predicate: Callable[[], Any], timeout: float = 5.0, *, what: str | None = None
) -> Any:
    """Ask `predicate` every 10 ms until its answer is truthy, and return that answer.

    Args:
        predicate: A plain or async function without arguments; what it raises flies.
        timeout: Seconds until giving up.
        what: The condition in words, for the failure; the predicate's name by default.

    Raises:
        TimeoutError: The condition did not come true; the message holds the last answer.
    """
    give_up_at = time.monotonic() + timeout
    while True:
        answer = predicate()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        if time.monotonic() >= give_up_at:
            name = what or getattr(predicate, "__qualname__", repr(predicate))
            raise TimeoutError(f"waited {timeout} s for: {name}; the last answer was {answer!r}")
        await asyncio.sleep(_POLL)
