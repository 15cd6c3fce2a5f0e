"""A batch: work promised in the middle of a request, and started when the request has succeeded."""

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

from ._handle import AnyHandle
from ._threads import Threads
from ._work import call_of, name_of

if TYPE_CHECKING:
    from ._configured import ConfiguredTasks

P = ParamSpec("P")


class Batch:
    """Work of one request, collected first and started in one go, or dropped.

    Each piece has its place among the running tasks from `add` on, so what was added can be
    started. The pieces run one after another, each as a task of its own: one that fails is
    logged and does not keep the next from running.
    """

    def __init__(self, configured: "ConfiguredTasks") -> None:
        self._configured = configured
        self._tasks = configured._tasks
        self._calls: list[functools.partial[Any]] = []

    def add(self, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Plan `function(*args, **kwargs)`; may be called from any thread.

        Args:
            function: An async function, or a plain one, which will run in a thread.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Raises:
            TasksFull: As many tasks are running as may.
            TasksClosed: The tasks are not open.
            InvalidSetting: `function` is a coroutine, or nothing that can be called.
        """
        call: functools.partial[Any] = call_of("add_task", function, *args, **kwargs)
        self._tasks._promise(name_of(call))
        self._calls.append(call)

    def start(self) -> list[AnyHandle]:
        """Start what was added, in that order; returns the receipts. Again: does nothing."""
        handles: list[AnyHandle] = []
        previous: asyncio.Task[Any] | None = None
        calls, self._calls = self._calls, []
        for call in calls:
            run = functools.partial(_run, call, self._tasks._threads)
            in_turn = functools.partial(_after_the_one_before, previous, run)
            handle = self._tasks._start_promised(self._configured._work(in_turn, call))
            if handle is not None:
                handles.append(handle)
                previous = handle._task
        return handles

    def drop(self) -> None:
        """Forget what was added: the request has failed, and promised nothing."""
        calls, self._calls = self._calls, []
        for _ in calls:
            self._tasks._roll.release()


async def _after_the_one_before(
    previous: "asyncio.Task[Any] | None", run: Callable[[], Any]
) -> Any:
    if previous is not None:
        await asyncio.wait((previous,))
    return await run()


async def _run(call: "functools.partial[Any]", threads: Threads) -> Any:
    result = await (call() if _is_async(call.func) else threads.run_in_thread(call))
    # `lambda: send(x)` looks like a plain function from outside.
    return await result if inspect.isawaitable(result) else result


def _is_async(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    is_async = inspect.iscoroutinefunction
    return is_async(function) or (callable(function) and is_async(type(function).__call__))
