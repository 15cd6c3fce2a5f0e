"""A supervisor with options: what a task is called, how long it may take, and how it ends."""

import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ._batch import Batch
from ._handle import TaskHandle
from ._work import OnShutdown, Work, call_of, name_of

if TYPE_CHECKING:
    from ._tasks import Tasks

P = ParamSpec("P")
T = TypeVar("T")


class ConfiguredTasks:
    """A supervisor with options: `spawn` as that of `Tasks`, but with a name, a timeout, an end.

    Made by `Tasks.options`.
    """

    def __init__(
        self, tasks: "Tasks", name: str | None, timeout: float | None, on_shutdown: OnShutdown
    ) -> None:
        self._tasks = tasks
        self._name = name
        self._timeout = timeout
        self._on_shutdown = on_shutdown

    def spawn(
        self,
        function: Callable[P, Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> TaskHandle[T]:
        """Start `function(*args, **kwargs)` with these options; all else is as in `Tasks.spawn`."""
        call = call_of("spawn", function, *args, **kwargs)
        return self._tasks._start_from_anywhere(self._work(call))

    def batch(self) -> Batch:
        """Return an empty batch; each piece of work in it has these options."""
        return Batch(self)

    def _work(
        self,
        call: "functools.partial[Coroutine[Any, Any, T]]",
        asked_for: "functools.partial[Any] | None" = None,
    ) -> Work[T]:
        return Work(
            call,
            self._name or name_of(asked_for or call),
            timeout=self._timeout,
            on_shutdown=self._on_shutdown,
            asked_for=asked_for,
        )
