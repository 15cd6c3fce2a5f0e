"""Callbacks after a COMMIT: work that must not begin before the row is there."""

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from stormproof._core.events import CommitCallbackFailed, Events

from ._faults import first_line

_log = logging.getLogger("stormproof")

Callback: TypeAlias = Callable[[], Awaitable[Any] | Any]


async def run_callbacks(callbacks: Sequence[Callback], events: Events) -> None:
    """Call each in its order and await what it returns; one that raises does not stop the others.

    Cancelled: the one that runs is cancelled with it, and the others are told as failed.
    """
    for number, callback in enumerate(callbacks):
        try:
            result = callback()
            if inspect.isawaitable(result):
                await result
        except Exception as error:
            _log.exception("on_commit: %s failed; the work is committed", _name(callback))
            events.emit(CommitCallbackFailed(_name(callback), first_line(error)))
        except BaseException:
            for cut in callbacks[number:]:
                _log.error("on_commit: %s was cut; the work is committed", _name(cut))
                events.emit(CommitCallbackFailed(_name(cut), "cut: it took too long"))
            raise


def _name(callback: Callback) -> str:
    return getattr(callback, "__qualname__", None) or type(callback).__name__
