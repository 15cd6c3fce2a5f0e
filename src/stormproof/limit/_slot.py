"""`Slot`: one place in a limiter, for a caller that says who it is or what it comes for."""

import asyncio
from collections.abc import Hashable
from types import TracebackType
from typing import TYPE_CHECKING

from stormproof._core.deadline import remaining

from ._works import Work

if TYPE_CHECKING:
    from ._limiter import Limiter


class Slot:
    """One place in a limiter, for a caller with a priority, a key or a work; to be entered once."""

    __slots__ = ("_entered_at", "_key", "_limiter", "_line", "_share", "_work")

    def __init__(
        self, limiter: "Limiter", share: float, key: Hashable | None, work: Work | None
    ) -> None:
        self._limiter = limiter
        self._share = share
        self._key = key
        self._work = work

    async def __aenter__(self) -> None:
        limiter = self._limiter
        line = self._line = limiter._line if self._key is None else limiter._line_of(self._key)
        left = remaining()
        if limiter._free > 0 and line.in_use < line.most and (left is None or left > 0.0):
            limiter._free -= 1
            line.in_use += 1
        else:
            try:
                waiter = limiter._line_up(self._share, line, self._work)
                try:
                    await waiter
                except BaseException:
                    limiter._abandon(waiter)
                    raise
                limiter._settle(waiter)
            except BaseException:
                limiter._forget(line)
                raise
        limiter._admitted += 1
        if self._work is not None:
            self._entered_at = asyncio.get_running_loop().time()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        limiter = self._limiter
        if self._work is not None:
            seconds = asyncio.get_running_loop().time() - self._entered_at
            is_cut = isinstance(error, asyncio.CancelledError)
            limiter._works.ended(self._work, seconds, is_cut=is_cut)
        limiter._hand_over(self._line)
        limiter._forget(self._line)
