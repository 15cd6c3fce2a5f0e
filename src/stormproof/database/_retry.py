"""Retries: a whole unit of work again, when another transaction was in its way."""

import asyncio
import functools
import inspect
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from stormproof._core.deadline import remaining
from stormproof._core.events import Events, TransactionRetried
from stormproof.errors import InvalidSetting, PoolTimeout, StormproofError, TransactionConflict

from ._faults import is_busy
from ._session import DatabaseSession
from ._unit import UnitOfWork

P = ParamSpec("P")
R = TypeVar("R")

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0


class Retries:
    """Runs a unit of work again after a conflict: see `Database.transaction`.

    Source: the pause is "full jitter" (M. Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015): uniform between 0 and 20 ms, doubled for each try, at most 1 s.

    Args:
        open_unit: Makes a unit of work.
        retries: How often it is repeated at most.
        events: Gives where a repetition is told.
    """

    def __init__(
        self, open_unit: Callable[[], UnitOfWork], *, retries: int, events: Callable[[], Events]
    ) -> None:
        if retries < 0:
            raise InvalidSetting(f"retries is {retries}; give 0 or more")
        self._open_unit = open_unit
        self._retries = retries
        self._events = events

    def __call__(
        self, function: Callable[Concatenate[DatabaseSession, P], Awaitable[R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        """Return `function` without its first argument, which is a session of each try's own."""

        @functools.wraps(function)
        async def in_transaction(*args: P.args, **kwargs: P.kwargs) -> R:
            tries = 0
            while True:
                unit = self._open_unit()
                try:
                    async with unit as session:
                        return await function(session, *args, **kwargs)
                except StormproofError as error:
                    tries += 1
                    pause = self._pause_after(error, tries, commits=unit.session.commits)
                    if pause is None:
                        raise
                    name = getattr(function, "__qualname__", repr(function))
                    self._events().emit(TransactionRetried(name, tries, error.message))
                await asyncio.sleep(pause)

        # FastAPI and help() read the signature: the session is given by us.
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())[1:]
        in_transaction.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=parameters
        )
        return in_transaction

    def _pause_after(self, error: StormproofError, tries: int, *, commits: int) -> float | None:
        """Return the seconds to wait before the next try, None when there must be none."""
        if tries > self._retries or commits > 0 or not _is_repeatable(error):
            return None
        pause = random.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (tries - 1)))
        left = remaining()
        return None if left is not None and left <= pause else pause


def _is_repeatable(error: StormproofError) -> bool:
    if isinstance(error, TransactionConflict):
        return True
    # Another process kept SQLite's lock for as long as we wait at once.
    return isinstance(error, PoolTimeout) and is_busy(error.__cause__)
