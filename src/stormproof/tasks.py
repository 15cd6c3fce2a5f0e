"""Tasks: work that outlives its request, supervised, and finished or accounted for at a drain."""

import asyncio
import concurrent.futures
import functools
import inspect
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, Literal, NoReturn, ParamSpec, TypeAlias, TypeVar

from stormproof._core.clock import MONOTONIC, Clock
from stormproof._core.deadline import context_without_deadline
from stormproof._core.events import Events, TaskFailed
from stormproof._core.lifecycle import Lifecycle, Loss
from stormproof._core.place import waiting_place
from stormproof.errors import InvalidSetting, TasksClosed

P = ParamSpec("P")
T = TypeVar("T")
_Verb: TypeAlias = Literal["spawn", "serve"]

_RETRY_AFTER = 1.0
_THREAD_WAIT = 5.0
_CLEAN_UP_SHARE = 0.1
_CLEAN_UP_MOST = 1.0
_CLEAN_UP_LEAST = 0.1

_log = logging.getLogger("stormproof")


class _State(Enum):
    NEW = "not open yet"
    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class TasksStatistics:
    """What the supervisor is doing and has done; accepted = running + the three ends.

    Attributes:
        running: Spawned tasks that have not ended.
        services: Services that have not ended; they are in none of the other counts.
        accepted: Tasks that `spawn` took.
        finished: Tasks that ended by returning.
        failed: Tasks that ended with an exception.
        cancelled: Tasks that were cancelled, at a drain or by themselves.
    """

    running: int
    services: int
    accepted: int
    finished: int
    failed: int
    cancelled: int


class TaskHandle(Generic[T]):
    """One spawned task: its name, whether it is done, and a way to wait for it.

    Not needed to keep the task alive: the supervisor does that.
    """

    __slots__ = ("_is_cut", "_is_left_behind", "_task", "is_service", "name", "started_at")

    def __init__(
        self, name: str, task: "asyncio.Task[T]", started_at: float, *, is_service: bool
    ) -> None:
        self.name = name
        self.started_at = started_at
        self.is_service = is_service
        self._task = task
        self._is_cut = False
        self._is_left_behind = False

    def __repr__(self) -> str:
        return f"<TaskHandle {self.name!r} {'done' if self.done() else 'running'}>"

    def done(self) -> bool:
        """Return whether the task has ended, however it ended."""
        return self._task.done()

    async def wait(self) -> T:
        """Wait for the task's end and return its result; for the event loop's thread only.

        Has no limit of its own. Cancelled while waiting: the task goes on.

        Raises:
            Exception: What the task raised. The supervisor has logged it already.
            TasksClosed: When the task was cancelled, at the end of a drain for example.
        """
        await asyncio.wait((self._task,))
        if self._task.cancelled():
            raise TasksClosed(f"task {self.name!r} was cancelled before it was done")
        return self._task.result()

    def _cut(self) -> None:
        """Cancel the task, once: a second time would break into its clean-up."""
        if not self._is_cut:
            self._is_cut = True
            self._task.cancel()


class Tasks:
    """A supervisor of in-process tasks: holds them, reports failures, finishes them at a drain.

    It is a part of the service: open it at startup, drain and close it at shutdown. What
    `spawn` accepted is, after the drain, either done or in the drain's list of losses. It
    does not survive a crash of the process: for that, store the work before acknowledging it.

    Args:
        name: What log lines and error messages call this supervisor.
    """

    def __init__(self, name: str = "tasks") -> None:
        self._name = name
        self._state = _State.NEW
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock: Clock = MONOTONIC
        self._events = Events()
        self._lifecycle: Lifecycle | None = None
        # The only strong references: asyncio itself holds tasks weakly, and one that waits
        # on nothing but objects of its own is collected in the middle of its work.
        self._running: dict[asyncio.Task[Any], TaskHandle[Any]] = {}
        self._accepted = self._finished = self._failed = self._cancelled = 0

    @property
    def name(self) -> str:
        """What log lines and error messages call this supervisor."""
        return self._name

    async def open(self, lifecycle: Lifecycle | None = None) -> None:
        """Accept tasks from now on, to be run by the running loop.

        May be called again after `close`, as a test suite does with one app.

        Args:
            lifecycle: Whose clock is read and whose events get `TaskFailed`; None: alone.
        """
        if lifecycle is not None:
            self._clock, self._events = lifecycle.clock, lifecycle.events
        self._lifecycle = lifecycle
        self._loop = asyncio.get_running_loop()
        self._state = _State.OPEN

    def spawn(
        self,
        function: Callable[P, Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> TaskHandle[T]:
        """Start `function(*args, **kwargs)` as a task that is finished before the service ends.

        Returns at once. The task has the caller's context variables but no deadline: it
        outlives the request. A failure is logged once and does not touch other tasks. It may
        be called while the service drains, by requests in flight and by other tasks, and from
        any thread (a `def` endpoint): there it waits for the loop, at most 5 s.

        Args:
            function: An async function, not a coroutine: `spawn(send, "a@b")`, so that a
                refused call leaves nothing behind that was never awaited.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Raises:
            TasksClosed: Before `open`, or after the tasks were drained; nothing was started.
            InvalidSetting: When `function` is not an async function.
        """
        return self._start_from_anywhere("spawn", _call("spawn", function, *args, **kwargs))

    def serve(
        self,
        function: Callable[P, Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> TaskHandle[T]:
        """Start an endless task, such as a poller: at the drain it is cancelled, not awaited.

        It is cancelled after the last spawned task has ended, because those may need it, and
        is never a loss. One that ends or fails by itself is not started again.

        Args:
            function: An async function; it and its arguments are as for `spawn`.

        Raises:
            TasksClosed: Before `open`, or once the drain of the tasks has begun.
            InvalidSetting: When `function` is not an async function.
        """
        return self._start_from_anywhere("serve", _call("serve", function, *args, **kwargs))

    def statistics(self) -> TasksStatistics:
        """Return the counts of this moment."""
        return TasksStatistics(
            running=len(self._handles(is_service=False)),
            services=len(self._handles(is_service=True)),
            accepted=self._accepted,
            finished=self._finished,
            failed=self._failed,
            cancelled=self._cancelled,
        )

    async def drain(self, until: float) -> Sequence[Loss]:
        """Finish every spawned task, stop the services, and cancel what is left in time.

        Waits also for tasks that are spawned meanwhile. The last tenth of the time, at most
        1 s, is kept for the clean-up of what has to be cancelled; that is awaited too. A task
        that swallows its cancellation is reported and left behind. Cancelled while waiting
        (a second signal): all tasks are cancelled, the lifecycle's losses name them, and
        `close` awaits them.

        Args:
            until: Absolute monotonic time, in seconds. If it has passed, the clean-up of
                services and then of tasks still gets 0.1 s each.

        Returns:
            One loss for each spawned task that was cut: its age and the line where it waited.
        """
        if self._state is _State.CLOSED:
            return []
        self._state = _State.DRAINING
        left = max(0.0, until - self._clock.now())
        cut_at = until - min(_CLEAN_UP_MOST, left * _CLEAN_UP_SHARE)
        losses: dict[TaskHandle[Any], Loss] = {}
        try:
            await self._finish(cut_at)
            await self._cancel(self._handles(is_service=True), cut_at)
            await self._finish(cut_at)  # a service may have spawned its last piece of work
            losses = self._losses()
            self._state = _State.CLOSED
            await self._cancel(losses, until)
            return list(losses.values())
        except asyncio.CancelledError:
            # Nothing can be returned now, and what was acknowledged must not vanish unnamed.
            if self._lifecycle is not None:
                self._lifecycle.losses.extend((losses or self._losses()).values())
            raise
        finally:
            self._state = _State.CLOSED
            for handle in self._running.values():
                handle._cut()

    async def close(self) -> None:
        """Refuse all further tasks; cancel and await, at most 1 s, what no drain has ended."""
        self._state = _State.CLOSED
        await self._cancel(list(self._running.values()), self._clock.now() + _CLEAN_UP_MOST)

    def _start_from_anywhere(
        self, verb: _Verb, call: "functools.partial[Coroutine[Any, Any, T]]"
    ) -> TaskHandle[T]:
        self._check_open(verb, call)
        context = context_without_deadline()
        if self._loop is None or self._loop is _running_loop():
            return self._start(verb, call, context)
        ticket: concurrent.futures.Future[TaskHandle[T]] = concurrent.futures.Future()

        def start_on_loop() -> None:
            if ticket.set_running_or_notify_cancel():
                try:
                    ticket.set_result(self._start(verb, call, context))
                except Exception as error:
                    ticket.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(start_on_loop)
            return ticket.result(_THREAD_WAIT)
        except concurrent.futures.TimeoutError:
            if not ticket.cancel():  # it was started in this very moment, or it failed so
                return ticket.result()
            self._refuse(call, f"did not answer for {_THREAD_WAIT:.0f} s: its loop is blocked")
        except RuntimeError as error:
            if isinstance(error, TasksClosed) or not self._loop.is_closed():
                raise
            self._refuse(call, "are closed, and so is their event loop")

    def _start(
        self, verb: _Verb, call: "functools.partial[Coroutine[Any, Any, T]]", context: Context
    ) -> TaskHandle[T]:
        self._check_open(verb, call)
        is_service = verb == "serve"
        coroutine = context.run(call)
        if not asyncio.iscoroutine(coroutine):
            raise InvalidSetting(
                f"function of {verb}() must be an async function, but {_name_of(call)!r} ran in "
                f"place and returned {type(coroutine).__name__}; give it asyncio.to_thread"
            )
        name = _name_of(call)
        task = asyncio.get_running_loop().create_task(coroutine, name=name, context=context)
        handle = TaskHandle(name, task, self._clock.now(), is_service=is_service)
        self._running[task] = handle
        self._accepted += not is_service
        task.add_done_callback(self._ended)
        return handle

    def _check_open(self, verb: _Verb, call: "functools.partial[Any]") -> None:
        if self._state is _State.OPEN or (self._state is _State.DRAINING and verb == "spawn"):
            return
        self._refuse(call, f"are {self._state.value}")

    def _refuse(self, call: "functools.partial[Any]", why: str) -> NoReturn:
        raise TasksClosed(
            f"tasks {self._name!r} {why}, so {_name_of(call)!r} was not started "
            f"({len(self._running)} running); open them at startup, try another instance",
            retry_after=_RETRY_AFTER,
        )

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        """Count a task out; report its failure, here and nowhere else."""
        handle = self._running.pop(task)
        age = self._clock.now() - handle.started_at
        if task.cancelled():
            self._cancelled += not handle.is_service
            if not handle.is_service:
                _log.warning("task %r was cancelled %.2f s after its start", handle.name, age)
            return
        error = task.exception()
        if error is None:
            self._finished += not handle.is_service
            return
        self._failed += not handle.is_service
        _log.error(
            "task %r failed %.2f s after its start: %r", handle.name, age, error, exc_info=error
        )
        self._events.emit(TaskFailed(handle.name, repr(error), age))

    def _handles(self, *, is_service: bool) -> list[TaskHandle[Any]]:
        return [
            handle for handle in list(self._running.values()) if handle.is_service is is_service
        ]

    async def _finish(self, cut_at: float) -> None:
        """Wait until no spawned task runs, or until `cut_at`."""
        while handles := self._handles(is_service=False):
            left = cut_at - self._clock.now()
            if left <= 0:
                return
            await asyncio.wait([handle._task for handle in handles], timeout=left)

    def _losses(self) -> dict[TaskHandle[Any], Loss]:
        """Return what is lost by cutting the spawned tasks now."""
        now = self._clock.now()
        return {
            handle: Loss("task", handle.name, now - handle.started_at, waiting_place(handle._task))
            for handle in self._handles(is_service=False)
        }

    async def _cancel(self, handles: Iterable[TaskHandle[Any]], until: float) -> None:
        """Cancel and await these tasks, until `until` but at least 0.1 s; name who stays."""
        tasks = {handle._task: handle for handle in handles if not handle._is_left_behind}
        for handle in tasks.values():
            handle._cut()
        if not tasks:
            return
        left = max(_CLEAN_UP_LEAST, until - self._clock.now())
        _, stubborn = await asyncio.wait(tasks, timeout=left)
        for task in stubborn:
            tasks[task]._is_left_behind = True
            _log.error(
                "task %r ignores its cancellation at %s and was left behind",
                tasks[task].name,
                waiting_place(task),
            )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _call(
    verb: _Verb,
    function: Callable[P, Coroutine[Any, Any, T]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> "functools.partial[Coroutine[Any, Any, T]]":
    """Return the call to make later, or say what is wrong with `function`."""
    if inspect.iscoroutine(function):
        name = function.__qualname__
        function.close()  # else it is also reported as never awaited
        raise InvalidSetting(
            f"function of {verb}() must be the async function itself, not a coroutine; "
            f"write {verb}({name}, ...) instead of {verb}({name}(...))"
        )
    if not callable(function):
        raise InvalidSetting(f"function of {verb}() must be an async function, not {function!r}")
    return functools.partial(function, *args, **kwargs)


def _name_of(call: "functools.partial[Any]") -> str:
    name = str(getattr(call.func, "__qualname__", type(call.func).__qualname__))
    return name.rpartition("<locals>.")[2]
