"""Tasks: those that a request creates and leaves running when it ends."""

import asyncio
import os
import sys
import weakref
from collections import OrderedDict
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from ._arrival import CURRENT, Arrival
from ._requests import Requests

_MOST_REMEMBERED = 2000
_BETWEEN = tuple(os.sep + package + os.sep for package in ("asyncio", "anyio", "uvloop"))
"""Their frames stand between a task and the line that wanted it."""

Task = asyncio.Task[Any]


@dataclass(frozen=True, slots=True)
class Birth:
    """Where a task was created: in which request, by which line."""

    arrival: Arrival
    code: Any
    file: str
    line: int


class Tasks:
    """Follows the tasks that the app's own code creates in a request; none is kept alive by it."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._last = 0
        # By id, because a task is not to be found by reference any more when it is destroyed.
        self._births: OrderedDict[int, Birth] = OrderedDict()
        requests.on_end.append(self.left_by)

    def created(self, task: Task, arrival: Arrival) -> None:
        """Note a task that was created while a request is in flight."""
        code = code_of(task)
        file, line, is_own = self._creator()
        if not is_own:
            if code is None or not self._requests.places.is_own(code.co_filename):
                return
            file, line = code.co_filename, code.co_firstlineno
        birth = Birth(arrival, code, file, line)
        arrival.tasks.append((weakref.ref(task), birth))
        self._births[id(task)] = birth
        if len(self._births) > _MOST_REMEMBERED:
            self._births.popitem(last=False)

    def birth(self, task: Any) -> Birth | None:
        """Return where a task was created, if that was in a request."""
        birth = self._births.get(id(task))
        # The id may have been another task's; the same code is proof enough.
        return birth if birth is not None and birth.code is code_of(task) else None

    def left_by(self, arrival: Arrival) -> None:
        """Report the tasks that outlive their request, and later how each ends."""
        for reference, birth in arrival.tasks:
            task = reference()
            if task is not None and not task.done() and not task.cancelling():
                self._follow(task, birth)
        arrival.tasks.clear()

    def _follow(self, task: Task, birth: Birth) -> None:
        self._last += 1
        facts = {
            "key": f"t{self._last}",
            "route": self._requests.name(birth.arrival),
            "id": birth.arrival.id,
            "name": getattr(task.get_coro(), "__qualname__", task.get_name()),
            "file": birth.file,
            "line": birth.line,
        }

        def ended(task: Task) -> None:
            # Not `exception()`: asking would hide that the app never asked.
            error = getattr(task, "_exception", None)
            how = "cancelled" if task.cancelled() else "failed" if error is not None else "finished"
            said = None if error is None else repr(error)[:500]
            self._requests.wire.emit("task", {**facts, "what": how, "error": said})

        self._requests.wire.emit("task", {**facts, "what": "outlived", "error": None})
        task.add_done_callback(ended, context=Context())

    def _creator(self) -> tuple[str, int, bool]:
        """Return the line that wanted a task, beyond asyncio and anyio, and if it is the app's."""
        frame = sys._getframe(3)
        while frame.f_back is not None and any(
            part in frame.f_code.co_filename for part in _BETWEEN
        ):
            frame = frame.f_back
        file = frame.f_code.co_filename
        return file, frame.f_lineno, self._requests.places.is_own(file)


def patch_create_task(loop_class: Any, tasks: Tasks) -> None:
    """Wrap `create_task` of a class of event loops; asyncio, anyio and task groups all call it."""
    original = loop_class.create_task

    def create_task(self: Any, coro: Any, *args: Any, **kwargs: Any) -> Task:
        task: Task = original(self, coro, *args, **kwargs)
        arrival = CURRENT.get()
        if arrival is not None and arrival.scope is not None:
            tasks.created(task, arrival)
        return task

    loop_class.create_task = create_task


def code_of(task: Any) -> Any:
    """Return the code of a task's coroutine, None where it is not Python's."""
    get_coro = getattr(task, "get_coro", None)
    coro = None if get_coro is None else get_coro()
    return getattr(coro, "cr_code", None) or getattr(coro, "gi_code", None)
