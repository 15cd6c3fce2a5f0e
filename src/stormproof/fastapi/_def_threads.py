"""Threads of `def` endpoints and dependencies: so many, a bounded wait for one, and 503."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any

from anyio import to_thread

from stormproof._core.deadline import current_deadline
from stormproof.errors import InvalidSetting
from stormproof.limit import Limiter

_ON_THE_WAY = frozenset({"run_sync_in_worker_thread", "run_sync", "run_in_threadpool"})
# Nothing has been acknowledged yet where these call a `def`, and it is FastAPI that does. Whatever
# else asks for a thread (a background task, the next part of a stream or a file, an error handler)
# would be lost by a refusal. By name, so that a release which moves one takes its bound away and
# nothing else; tests/threads notices.
_BEGINNINGS = frozenset(
    {
        ("fastapi.routing", "run_endpoint_function"),
        ("fastapi.dependencies.utils", "solve_dependencies"),
        ("fastapi.concurrency", "contextmanager_in_threadpool"),
    }
)


def thread_limiter(threads: object) -> Limiter | None:
    """Return the limiter that `install(threads=)` asks for; a number is its capacity.

    Raises:
        InvalidSetting: It is neither a `Limiter` nor a whole number above 0.
    """
    if threads is None or isinstance(threads, Limiter):
        return threads
    if type(threads) is not int or threads < 1:
        raise InvalidSetting(f"install(threads={threads!r}) must be an int >= 1, or a Limiter")
    return Limiter(threads, name="def")


def bounded_def_threads(limiter: Limiter | None) -> AbstractContextManager[None]:
    """Let `def` endpoints and dependencies on this loop need a slot of `limiter` in the block.

    A slot is held until the thread ends, as AnyIO holds its own. Everything else that uses
    AnyIO's default limiter has as many threads of its own, and waits for them without a bound.
    """
    return nullcontext() if limiter is None else _two_pools(limiter)


@contextmanager
def _two_pools(limiter: Limiter) -> Iterator[None]:
    default = to_thread.current_default_thread_limiter()
    kind, tokens = type(default), default.total_tokens

    class TwoPools(kind):  # type: ignore[misc, valid-type]
        """AnyIO's limiter, in front of which `def` calls have a limiter of their own."""

        __slots__ = ()

        async def __aenter__(self) -> None:
            if not _is_beginning():
                await kind.__aenter__(self)
                return
            await limiter.__aenter__()
            inside.add(asyncio.current_task())

        async def __aexit__(
            self,
            raised: type[BaseException] | None,
            error: BaseException | None,
            traceback: TracebackType | None,
        ) -> None:
            task = asyncio.current_task()
            if task in inside:
                inside.discard(task)
                await limiter.__aexit__(raised, error, traceback)
            else:  # and not super(): a thread may outlive the block, and its class with it
                await kind.__aexit__(self, raised, error, traceback)

    inside: set[asyncio.Task[Any] | None] = set()  # a task waits for one thread at a time
    # The object that everybody has asked AnyIO for stays the one that they have.
    default.__class__ = TwoPools
    default.total_tokens = limiter.capacity
    try:
        yield
    finally:
        default.__class__ = kind
        default.total_tokens = tokens


def _is_beginning() -> bool:
    """Return whether FastAPI is about to call a `def` endpoint or dependency of a request."""
    if current_deadline() is None:
        return False  # a WebSocket: its connection is not refused half-way
    frame = sys._getframe(2)
    while frame.f_code.co_name in _ON_THE_WAY and frame.f_back is not None:
        frame = frame.f_back
    return (frame.f_globals.get("__name__"), frame.f_code.co_name) in _BEGINNINGS
