"""Threads for the plain functions among the tasks, which an event loop cannot run."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any

_CAPACITY = 40


class Threads:
    """Runs plain functions, each in a thread of its own, at most 40 at once.

    They are not the threads of `def` endpoints, nor those of the loop's name lookups: slow work
    in the background takes none of those away. The threads are daemons: one that a drain could
    not wait for does not keep the process alive past its grace period.
    """

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_CAPACITY)

    async def run_in_thread(self, function: Callable[[], Any]) -> Any:
        """Call `function` in a thread, in a copy of the caller's context, and return its result.

        Waits for one of the 40 places. Cancelled while waiting for it: the function does not
        run. Cancelled later: the function goes on to its end, and its place with it.
        """
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
        in_context = partial(copy_context().run, function)

        def tell(result: Any, error: BaseException | None) -> None:
            self._free.release()
            if not ended.done():
                ended.set_result((result, error))

        def work() -> None:
            result, error = _outcome(in_context)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(tell, result, error)

        try:
            threading.Thread(target=work, name="stormproof task", daemon=True).start()
        except BaseException:
            self._free.release()
            raise
        result, error = await ended
        if error is not None:
            raise error
        return result


def _outcome(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return function(), None
    except BaseException as error:  # it is raised again where it is waited for
        return None, error
