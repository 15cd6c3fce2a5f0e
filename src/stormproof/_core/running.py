"""The running task, found without the system call that asyncio makes for it on CPython 3.11."""

import asyncio
from threading import get_ident
from typing import Any, cast


class Running:
    """Remembers a loop and its thread, so that each request finds its task cheaply.

    `asyncio.get_running_loop()` calls `getpid` each time, and after a system call the processor
    predicts the interpreter's jumps worse. In the remembered thread, a loop that has a current
    task is the running one; else it is asked for again.
    """

    __slots__ = ("_thread", "loop")

    def __init__(self) -> None:
        self._thread = 0
        self.loop: asyncio.AbstractEventLoop | None = None

    def task(self) -> "asyncio.Task[Any]":
        """Return the running task; must be called in one. `loop` is its loop afterwards."""
        if self._thread == get_ident():
            task = asyncio.current_task(self.loop)
            if task is not None:
                return task
        self.loop = asyncio.get_running_loop()
        self._thread = get_ident()
        return cast("asyncio.Task[Any]", asyncio.current_task(self.loop))
