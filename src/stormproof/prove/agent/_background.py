"""Background: what Starlette's BackgroundTasks promised, began and ended."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from ._arrival import CURRENT, Arrival
from ._requests import Requests

Call = Callable[[Any], Awaitable[None]]


class Background:
    """One life of background work, told in events that share a key."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._last = 0
        requests.on_end.append(self.dropped)

    def promised(self, task: Any) -> None:
        """Remember a task that was made in a request; nothing is promised to the client yet."""
        arrival = CURRENT.get()
        if arrival is not None and arrival.scope is not None:
            arrival.promised[id(task)] = task

    def accepted(self, task: Any) -> str:
        """Report that the answer was sent and this task comes next; return its key."""
        arrival = CURRENT.get()
        if arrival is not None:
            arrival.promised.pop(id(task), None)
        self._last += 1
        key = f"b{self._last}"
        self.tell(key, "accepted", task)
        return key

    def tell(self, key: str, what: str, task: Any, error: str | None = None) -> None:
        """Report one step of a task."""
        route, number = self._requests.where()
        name = _name(getattr(task, "func", task))
        facts = {"key": key, "what": what, "route": route, "id": number, "name": name}
        self._requests.wire.emit("background", {**facts, "error": error})

    def dropped(self, arrival: Arrival) -> None:
        """Report tasks that a request made, answered well, and never came to."""
        if not arrival.promised or not 200 <= arrival.status < 400:
            return
        token = CURRENT.set(arrival)
        try:
            for task in list(arrival.promised.values()):
                self.tell(self.accepted(task), "cancelled", task, "the answer left without it")
        finally:
            CURRENT.reset(token)


def patch_background(module: Any, background: Background) -> None:
    """Wrap Starlette's `BackgroundTask` and `BackgroundTasks`; what calls up is covered."""
    _patch_one(module.BackgroundTask, background)
    _patch_many(module.BackgroundTasks, background)


def patch_fastapi_background(module: Any, background: Background) -> None:
    """Wrap FastAPI's `BackgroundTasks`, which runs the row itself and does not call up."""
    if "__call__" in vars(module.BackgroundTasks):
        _patch_many(module.BackgroundTasks, background)


def _patch_one(kind: Any, background: Background) -> None:
    make: Any = kind.__init__
    run: Call = kind.__call__

    @functools.wraps(make)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        background.promised(self)

    @functools.wraps(run)
    async def call(self: Any) -> None:
        key = self.__dict__.pop("_stormproof_key", None) or background.accepted(self)
        background.tell(key, "started", self)
        try:
            await run(self)
        except asyncio.CancelledError:
            background.tell(key, "cancelled", self)
            raise
        except BaseException as error:
            background.tell(key, "failed", self, repr(error)[:500])
            raise
        background.tell(key, "finished", self)

    kind.__init__ = init
    kind.__call__ = call


def _patch_many(kind: Any, background: Background) -> None:
    run: Call = kind.__call__

    @functools.wraps(run)
    async def call(self: Any) -> None:
        tasks = [task for task in self.tasks if not hasattr(task, "_stormproof_key")]
        for task in tasks:
            task._stormproof_key = background.accepted(task)
        try:
            await run(self)
        finally:
            for task in tasks:
                key = task.__dict__.pop("_stormproof_key", None)
                if key is not None:
                    background.tell(key, "cancelled", task, "an earlier one ended the row")

    kind.__call__ = call


def _name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)
