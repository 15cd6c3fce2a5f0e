"""Finds out whether a task waits for a worker thread of anyio, which must not be cancelled.

`def` endpoints, `def` dependencies and `run_in_threadpool` all wait in `anyio.to_thread.run_sync`.
Its shield knows anyio's cancellation only. A native `task.cancel()` goes through it: the thread
runs on, but the limiter takes it for ended (226 threads alive, "0 of 40" borrowed), and the
request's session is closed under it.
"""

import asyncio
import gc
import inspect
from collections.abc import AsyncGenerator, Generator
from types import CoroutineType
from typing import Any

from anyio import to_thread


def thread_of(task: asyncio.Task[Any]) -> asyncio.Future[Any] | None:
    """Return the future of the thread that `task` waits for, or None when it may be cancelled.

    None also while the task still waits for a place in the limiter (nothing runs yet), with
    `abandon_on_cancel=True` (the caller asked for it), and when the wait is hidden in another
    task: that one is then cancelled by anyio, which does respect the shield.
    """
    chain = _awaited(task.get_coro())
    in_run_sync = [getattr(link, "cr_code", None) is to_thread.run_sync.__code__ for link in chain]
    # Below run_sync there is the backend's coroutine; a third link would be the limiter's.
    if in_run_sync[-2:-1] != [True]:
        return None
    if chain[-2].cr_frame.f_locals["abandon_on_cancel"]:
        return None
    future = getattr(task, "_fut_waiter", None)
    return future if asyncio.isfuture(future) and not future.done() else None


def _awaited(outermost: object) -> list[Any]:
    """Return the suspended coroutines and generators of one task, from the outermost in."""
    chain = []
    link: object = outermost
    while link is not None:
        if isinstance(link, CoroutineType):
            following = link.cr_await
        elif inspect.isasyncgen(link):
            following = link.ag_await
        elif inspect.isgenerator(link):
            following = link.gi_yieldfrom
        else:
            # `__anext__()`, `asend()` and `athrow()` do not tell which generator they drive.
            link = _driven(link)
            continue
        chain.append(link)
        link = following
    return chain


def _driven(link: object) -> object | None:
    """Return the asynchronous generator or coroutine that `link` is a handle of, or None."""
    if type(link).__name__ not in _HANDLES:
        return None
    inner = (CoroutineType, AsyncGenerator, Generator)
    return next((held for held in gc.get_referents(link) if isinstance(held, inner)), None)


_HANDLES = frozenset(
    {"anext_awaitable", "async_generator_asend", "async_generator_athrow", "coroutine_wrapper"}
)
