"""Waiting for what must not be left half done: a COMMIT, a clean-up."""

import asyncio
import os
import socket
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds the work may still take after its caller was cancelled."""


async def to_the_end(work: Coroutine[Any, Any, T], *, within: float | None = None) -> T:
    """Run `work` to its end, also when the caller is cancelled; that is raised afterwards.

    From the cancellation on, `work` has 5 s; then it is cancelled too.

    Args:
        work: What to run; it gets a task of its own.
        within: Seconds after which `work` is cancelled in any case, None for never.

    Raises:
        TimeoutError: `work` was not over `within` its time.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(work)
    timers = [] if within is None else [loop.call_later(within, task.cancel)]
    cancelled: asyncio.CancelledError | None = None
    try:
        while not task.done():
            # Not `asyncio.wait`, which costs 8 µs more; this is on the path of every COMMIT.
            ended = loop.create_future()
            wake = partial(_wake, ended)
            task.add_done_callback(wake)
            try:
                await ended
            except asyncio.CancelledError as error:
                if cancelled is None:
                    timers.append(loop.call_later(PATIENCE, task.cancel))
                cancelled = error
            finally:
                task.remove_done_callback(wake)
        if cancelled is not None:
            if not task.cancelled():
                task.exception()  # looked at: the cancellation goes before it
            raise cancelled
        if task.cancelled():
            raise TimeoutError(f"not over after {within} s")
        return task.result()
    finally:
        cancelled = None  # the traceback of an exception must not hold its own frame
        for timer in timers:
            timer.cancel()


def _wake(ended: asyncio.Future[None], _: object) -> None:
    if not ended.done():
        ended.set_result(None)


def sever(descriptor: int) -> None:
    """Make whoever waits at the socket see its end: a silent network answers no cancellation."""
    with socket.socket(fileno=os.dup(descriptor)) as ours:
        ours.shutdown(socket.SHUT_RDWR)
