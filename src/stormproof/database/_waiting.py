"""Waiting for what must not be left half done: a COMMIT, a clean-up."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_PATIENCE = 5.0
"""Seconds the work may still take after its caller was cancelled."""


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end, also when the caller is cancelled; that is raised afterwards.

    From the cancellation on, `work` has 5 s; then it is cancelled too.
    """
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    try:
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError as error:
                if cancelled is None:
                    asyncio.get_running_loop().call_later(_PATIENCE, task.cancel)
                cancelled = error
        if cancelled is None:
            return task.result()
        if not task.cancelled():
            task.exception()  # looked at: the cancellation goes before it
        raise cancelled
    finally:
        cancelled = None  # the traceback of an exception must not hold its own frame
