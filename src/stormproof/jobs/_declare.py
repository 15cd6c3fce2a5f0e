"""Declarations: which functions are tasks, and when they are due."""

import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ParamSpec

from stormproof._arguments import check_count, check_seconds
from stormproof.errors import InvalidSetting

from ._cron import Schedule
from ._facts import OnFailure
from ._payload import Arguments
from ._task import OPTIONS, Home, JobTask

P = ParamSpec("P")

_FEWEST_STARTS = 3


class Declarations(Home):
    """The tasks of `Jobs`, and their decorators."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: dict[str, JobTask[Any]] = {}
        self._schedules: dict[JobTask[Any], Schedule] = {}

    @property
    def tasks(self) -> Mapping[str, JobTask[Any]]:
        """What can be run, by name."""
        return self._tasks

    def task(
        self,
        *,
        retries: int = 5,
        timeout: float | None = 300.0,
        concurrency: int | None = None,
        per_group: int | None = None,
        on_failure: OnFailure = "hold",
        backoff: float = 1.0,
        max_backoff: float = 300.0,
        max_starts: int | None = None,
        keep_result: bool = False,
        name: str | None = None,
    ) -> Callable[[Callable[P, Coroutine[Any, Any, Any]]], JobTask[P]]:
        """Return a decorator that makes an async function a task, whose calls can be stored.

        Args:
            retries: How often a job that raised is started again.
            timeout: Seconds a start may take; it is cancelled then, and has failed. It is the
                deadline of everything the function waits for. None: no limit.
            concurrency: How many of these jobs run at once in all workers together.
            per_group: How many jobs that were enqueued with the same `group=` run at once in all
                workers together; not together with `concurrency`. Groups are dealt to 64 lines,
                and those that share one wait for each other, too.
            on_failure: What becomes of a job that failed for good: "hold" keeps it until
                `retry` or `cancel`; "delete" leaves its traceback in the log alone.
            backoff: Seconds before the first retry; it doubles each time, a random half less.
            max_backoff: The longest of these pauses.
            max_starts: After how many starts a job is held instead of started again, whatever
                ended them: a job that kills its process ends here. Default: `retries` + 1, and
                at least 3.
            keep_result: Whether what it returns is stored, as JSON, for `Jobs.outcome`.
            name: What the store calls it; default the function's name. Jobs that wait find
                their function by it, so it must stay when the function is renamed.

        Raises:
            InvalidSetting: An option or a parameter of the function cannot be used.
        """
        check_count("task", least=0, retries=retries)
        check_count("task", or_none=True, concurrency=concurrency, per_group=per_group)
        check_count("task", or_none=True, max_starts=max_starts)
        check_seconds("task", backoff=backoff, max_backoff=max_backoff)
        check_seconds("task", or_none=True, timeout=timeout)
        if on_failure not in ("hold", "delete"):
            raise InvalidSetting(f"task(on_failure={on_failure!r}) must be 'hold' or 'delete'")
        if concurrency is not None and per_group is not None:
            raise InvalidSetting("task(concurrency=, per_group=): give one of them")

        def decorate(function: Callable[P, Coroutine[Any, Any, Any]]) -> JobTask[P]:
            named = name or str(getattr(function, "__name__", function))
            if "#" in named:
                raise InvalidSetting(f"task {named!r} must not have a # in its name")
            if not inspect.iscoroutinefunction(function):
                raise InvalidSetting(
                    f"task {named!r} must be an async function; run blocking work in Threads"
                )
            if named in self._tasks:
                raise InvalidSetting(f"two tasks of {self._name!r} are called {named!r}")
            task = JobTask(
                self, named, function, Arguments(named, function, reserved=OPTIONS),
                retries, backoff, max_backoff, timeout, concurrency, per_group,
                on_failure,
                max_starts or max(retries + 1, _FEWEST_STARTS), keep_result,
            )  # fmt: skip
            self._tasks[named] = task
            return task

        return decorate

    def cron(
        self, expression: str, *, timezone: str = "UTC", **options: Any
    ) -> Callable[[Callable[P, Coroutine[Any, Any, Any]]], JobTask[P]]:
        """Return a decorator that makes a function a task which is enqueued at its times.

        Each time it is one job, whoever many workers there are, and a job like any other: it is
        retried, held, handed back. While the last one still waits or runs, none is added. Times
        that pass while no worker runs are made up for once.

        Args:
            expression: Five fields: minute, hour, day of the month, month, weekday.
            timezone: Whose hours they are, as "Europe/Paris".
            **options: As of `task`.

        Raises:
            InvalidSetting: The expression or an option cannot be used.
        """
        schedule = Schedule(expression, timezone)

        def decorate(function: Callable[P, Coroutine[Any, Any, Any]]) -> JobTask[P]:
            task = self.task(**options)(function)
            task.arguments.dump()  # it is called without arguments
            self._schedules[task] = schedule
            return task

        return decorate
