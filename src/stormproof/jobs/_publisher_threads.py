"""Threads for a publisher that blocks: one that never returns stops nobody but itself."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context

_MOST = 16


class PublisherThreads:
    """Runs each call in a daemon thread of its own.

    Not the loop's executor: a broker that accepts and then says nothing would take its few
    threads one by one, for good, and the process could not end.

    Args:
        most: How many calls there may be, those that nobody waits for any more included.
    """

    def __init__(self, *, most: int = _MOST) -> None:
        self._most = most
        self._busy = 0
        self._lock = threading.Lock()

    async def call(self, function: Callable[[], object]) -> object:
        """Call `function` in a thread; what it raises is raised here.

        Cancelled: returns at once, the call goes on.

        Raises:
            ConnectionError: As many calls as may be have not come back.
        """
        with self._lock:
            if self._busy >= self._most:
                raise ConnectionError(f"{self._busy} calls of the publisher have not returned")
            self._busy += 1
        loop = asyncio.get_running_loop()
        done: asyncio.Future[object] = loop.create_future()
        context = copy_context()

        def run() -> None:
            result, error = None, None
            try:
                result = context.run(function)
            except Exception as raised:
                error = raised
            with self._lock:
                self._busy -= 1
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(_settle, done, result, error)

        threading.Thread(target=run, name="jobs publisher", daemon=True).start()
        return await done


def _settle(done: "asyncio.Future[object]", result: object, error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
