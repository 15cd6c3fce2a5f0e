"""The supervisor: holds tasks, refuses what it cannot keep, and ends them at a drain."""

import asyncio
import concurrent.futures
import functools
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from enum import Enum
from typing import Any, NoReturn, ParamSpec, TypeVar

from stormproof._arguments import check_count, check_seconds
from stormproof._core.deadline import context_without_deadline
from stormproof._core.events import Events
from stormproof._core.lifecycle import Lifecycle, Loss
from stormproof._core.origin import Origin, detach_origin
from stormproof.errors import InvalidSetting, TasksClosed

from ._batch import Batch
from ._configured import ConfiguredTasks
from ._ending import Ending, cancel
from ._handle import AnyHandle, TaskHandle
from ._handover import Handover
from ._roll import Roll, TasksStatistics
from ._service import Restart, RestartPolicy, ServiceFailure, keep_running
from ._threads import Threads
from ._work import (
    OnShutdown,
    Work,
    call_of,
    check_choice,
    name_of,
)

P = ParamSpec("P")
T = TypeVar("T")

_RETRY_AFTER = 1.0
_THREAD_WAIT = 5.0
_CLEAN_UP_SHARE = 0.1
_CLEAN_UP_MOST = 1.0

_log = logging.getLogger("stormproof")


class _State(Enum):
    NEW = "not open yet"
    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"


class Tasks:
    """A supervisor of in-process tasks: holds them, reports failures, finishes them at a drain.

    It is a part of the service: open it at startup, drain and close it at shutdown. What
    `spawn` accepted is, after the drain, either done, or taken over, or in the drain's list of
    losses. It does not survive a crash of the process: for that, store the work before
    acknowledging it.

    Args:
        name: What log lines and error messages call this supervisor.
        max_running: How many tasks may run at once, services not counted; what is beyond is
            refused with `TasksFull` (503), not queued.
        handover: Called at a drain with the unfinished tasks that were spawned with
            `on_shutdown="handover"`; returns the ids of those it has stored. It has what is
            left of the drain's time. What it does not return is lost, and reported as lost.
    """

    def __init__(
        self,
        name: str = "tasks",
        *,
        max_running: int = 10_000,
        handover: Handover | None = None,
    ) -> None:
        check_count("Tasks", max_running=max_running)
        self._name = name
        self._state = _State.NEW
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lifecycle: Lifecycle | None = None
        self._handover = handover
        self._roll = Roll(name, max_running)
        self._threads = Threads()

    @property
    def name(self) -> str:
        """What log lines and error messages call this supervisor."""
        return self._name

    async def open(self, lifecycle: Lifecycle | None = None) -> None:
        """Accept tasks from now on, to be run by the running loop.

        May be called again after `close`, as a test suite does with one app.

        Args:
            lifecycle: Whose clock is read, whose events get `TaskFailed`, and whose readiness
                ends with a service that fails again and again; None: alone.
        """
        if lifecycle is not None:
            self._roll.clock, self._roll.events = lifecycle.clock, lifecycle.events
        self._lifecycle = lifecycle
        self._loop = asyncio.get_running_loop()
        self._threads = Threads()
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
        outlives the request. A failure is logged once, with the request it came from, and does
        not touch other tasks. It may be called while the service drains, by requests in flight
        and by other tasks, and from any thread (a `def` endpoint): there it waits for the loop,
        at most 5 s.

        Args:
            function: An async function, not a coroutine: `spawn(send, "a@b")`, so that a
                refused call leaves nothing behind that was never awaited.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments; for a timeout and the like see `options`.

        Returns:
            The receipt. It may be thrown away.

        Raises:
            TasksFull: As many tasks are running as may; nothing was started.
            TasksClosed: Before `open`, or after the tasks were drained; nothing was started.
            InvalidSetting: When `function` is not an async function.
        """
        call = call_of("spawn", function, *args, **kwargs)
        return self._start_from_anywhere(Work(call, name_of(call)))

    def options(
        self,
        *,
        name: str | None = None,
        timeout: float | None = None,
        on_shutdown: OnShutdown = "finish",
    ) -> ConfiguredTasks:
        """Return this supervisor with options: `tasks.options(timeout=30).spawn(send, "a@b")`.

        May be kept and used again, and before `open`.

        Args:
            name: What the task is called in logs and losses; default the function's name.
            timeout: Seconds after which the task is cancelled and counts as failed; None: no
                limit but the drain.
            on_shutdown: What a drain does with a task that is still running. "finish": wait for
                it, then cut it and report it as lost. "cancel": cancel it at once; it was
                promised to nobody and is no loss. "handover": cancel it at once and give it to
                the `handover` of these `Tasks`; what is not taken is reported as lost.

        Raises:
            InvalidSetting: An option is none of these.
        """
        check_seconds("options", or_none=True, timeout=timeout)
        check_choice("on_shutdown of options()", on_shutdown, OnShutdown)
        return ConfiguredTasks(self, name, timeout, on_shutdown)

    def service(
        self,
        function: Callable[[], Coroutine[Any, Any, T]],
        /,
        *,
        name: str | None = None,
        restart: Restart = "on_failure",
        backoff: float = 1.0,
        max_restarts: int | None = 5,
    ) -> TaskHandle[T]:
        """Start endless work, such as a poller: at the drain it is cancelled, not waited for.

        It is cancelled after the last spawned task has ended, because those may need it, and
        is never a loss. Each failure is logged. When it has failed once more than
        `max_restarts` times in a row, it stays down and `/readyz` answers 503 with its name:
        the service as a whole cannot do its work any more. A run of 60 s ends the row.

        Args:
            function: An async function without arguments; bind them with `functools.partial`.
            name: What it is called in logs and in `/readyz`; default the function's name.
            restart: "never"; "on_failure": when it raised; "always": also when it returned.
                With "never" a failure does not touch readiness.
            backoff: Seconds before the first restart; twice as long before each further one in
                a row, at most 30 s, and a random half of it less.
            max_restarts: How many failures in a row are followed by a restart; None: all.

        Returns:
            The receipt; its `wait()` ends when the service stays down.

        Raises:
            TasksClosed: Before `open`, or once the drain of the tasks has begun.
            InvalidSetting: When `function` is not an async function, or an option is none.
        """
        call = call_of("service", function)
        check_choice("restart of service()", restart, Restart)
        check_seconds("service", backoff=backoff)
        check_count("service", least=0, or_none=True, max_restarts=max_restarts)
        policy = RestartPolicy(restart, backoff, max_restarts)
        name = name or name_of(call)
        tell = functools.partial(self._service_failed, name, policy)
        run = functools.partial(keep_running, call, policy, self._roll.clock, tell)
        return self._start_from_anywhere(Work(run, name, is_service=True, asked_for=call))

    def batch(self) -> Batch:
        """Return an empty batch, to promise work in a request that may still fail."""
        return self.options().batch()

    def statistics(self) -> TasksStatistics:
        """Return the counts of this moment."""
        return self._roll.statistics()

    def rehearse(self) -> dict[asyncio.Task[Any], Loss]:
        """Return what is running, each as the loss it would be if it were cut now.

        Services are among them. May be called from any thread.
        """
        now = self._roll.clock.now()
        running = list(self._roll.running.values())
        return {handle._task: handle._loss("task", now) for handle in running}

    async def drain(self, until: float) -> Sequence[Loss]:
        """Finish every spawned task, stop the services, and cancel what is left in time.

        What was spawned to be cancelled or handed over is cancelled first and awaited, at most
        5 s, while the others go on. Waits also for tasks that are spawned meanwhile. The last
        tenth of the time, at most 1 s, is kept for the clean-up of what has to be cancelled;
        that is awaited too. A task that swallows its cancellation is reported and left behind.
        Cancelled while waiting (a second signal): all tasks are cancelled, the lifecycle's
        losses name them, and `close` awaits them.

        Args:
            until: Absolute monotonic time, in seconds. If it has passed, the clean-up of
                services and then of tasks still gets 0.1 s each.

        Returns:
            One loss for each spawned task that was cut or that nobody took over: its age, the
            line where it waited, and the request that it came from.
        """
        if self._state is _State.CLOSED:
            return []
        self._state = _State.DRAINING
        left = max(0.0, until - self._roll.clock.now())
        cut_at = until - min(_CLEAN_UP_MOST, left * _CLEAN_UP_SHARE)
        ending = Ending(self._roll, cut_at, self._handover)
        try:
            await ending.finish()
            await ending.stop_services()
            await ending.finish()  # a service may have spawned its last piece of work
            self._state = _State.CLOSED
            await cancel(self._roll, ending.note_losses(), until)
            return list(ending.losses.values())
        except asyncio.CancelledError:
            # Nothing can be returned now, and what was acknowledged must not vanish unnamed.
            ending.note_losses()
            if self._lifecycle is not None:
                self._lifecycle.losses.extend(ending.losses.values())
            raise
        finally:
            self._state = _State.CLOSED
            for handle in self._roll.running.values():
                handle._cut()

    async def close(self) -> None:
        """Refuse all further tasks; cancel and await, at most 1 s, what no drain has ended."""
        self._state = _State.CLOSED
        until = self._roll.clock.now() + _CLEAN_UP_MOST
        await cancel(self._roll, list(self._roll.running.values()), until)

    @property
    def _events(self) -> Events:
        return self._roll.events

    @property
    def _running(self) -> dict[asyncio.Task[Any], AnyHandle]:
        return self._roll.running

    def _start_from_anywhere(self, work: Work[T]) -> TaskHandle[T]:
        self._check_open(work)
        context = context_without_deadline()
        origin = context.run(detach_origin)
        if self._loop is None or self._loop is _running_loop():
            return self._start_in_place(work, context, origin)
        ticket: concurrent.futures.Future[TaskHandle[T]] = concurrent.futures.Future()

        def start_on_loop() -> None:
            if ticket.set_running_or_notify_cancel():
                try:
                    ticket.set_result(self._start_in_place(work, context, origin))
                except Exception as error:
                    ticket.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(start_on_loop)
            return ticket.result(_THREAD_WAIT)
        except concurrent.futures.TimeoutError:
            if not ticket.cancel():  # it was started in this very moment, or it failed so
                return ticket.result()
            why = f"did not answer for {_THREAD_WAIT:.0f} s: its loop is blocked"
            self._refuse(work.name, why)
        except RuntimeError as error:
            if isinstance(error, TasksClosed) or not self._loop.is_closed():
                raise
            self._refuse(work.name, "are closed, and so is their event loop")

    def _start_in_place(
        self, work: Work[T], context: Context, origin: Origin | None
    ) -> TaskHandle[T]:
        """Start a task if there is a place for it; a service needs none."""
        if work.is_service:
            return self._start(work, context, origin)
        self._check_open(work)
        self._roll.promise(work.name)
        try:
            return self._start(work, context, origin)
        finally:
            self._roll.release()

    def _start(self, work: Work[T], context: Context, origin: Origin | None) -> TaskHandle[T]:
        self._check_open(work)
        coroutine = context.run(work.call)
        if not asyncio.iscoroutine(coroutine):
            verb = "service" if work.is_service else "spawn"
            raise InvalidSetting(
                f"function of {verb}() must be an async function, but {work.name!r} ran in "
                f"place and returned {type(coroutine).__name__}; give it asyncio.to_thread"
            )
        loop = asyncio.get_running_loop()
        task = loop.create_task(coroutine, name=work.name, context=context)
        handle = TaskHandle(work, task, self._roll.clock.now(), origin)
        if work.timeout is not None:
            cut = handle._cut
            handle._timer = loop.call_later(work.timeout, cut, "timed_out", context=context)
        self._roll.add(handle, context)
        return handle

    def _promise(self, name: str) -> None:
        """Keep a place for a task that `_start_promised` or `_release` will end; any thread."""
        if self._state not in (_State.OPEN, _State.DRAINING):
            self._refuse(name, f"are {self._state.value}")
        self._roll.promise(name)

    def _start_promised(self, work: Work[T]) -> TaskHandle[T] | None:
        """Start a task that has its place; None: it came after the drain, and is lost."""
        context = context_without_deadline()
        origin = context.run(detach_origin)
        try:
            return self._start(work, context, origin)
        except TasksClosed as error:
            _log.error("task %r was promised and is lost: %s", work.name, error)
            if self._lifecycle is not None:
                self._lifecycle.losses.append(Loss("task", work.name, 0.0, error.message))
            return None
        finally:
            self._roll.release()

    def _check_open(self, work: Work[Any]) -> None:
        if self._state is _State.OPEN:
            return
        if self._state is _State.DRAINING and not work.is_service:
            return
        self._refuse(work.name, f"are {self._state.value}")

    def _refuse(self, name: str, why: str) -> NoReturn:
        raise TasksClosed(
            f"tasks {self._name!r} {why}, so {name!r} was not started "
            f"({len(self._roll.running)} running); open them at startup, try another instance",
            retry_after=_RETRY_AFTER,
        )

    def _service_failed(self, name: str, policy: RestartPolicy, failure: ServiceFailure) -> None:
        handle = self._roll.running[_current_task()]
        self._roll.service_failed(name, failure, handle.origin, policy.max_restarts)
        if failure.pause is None and policy.restart != "never" and self._lifecycle is not None:
            # Its type alone: an error's text may hold addresses, and anybody may ask /readyz.
            kind = type(failure.error).__name__
            self._lifecycle.declare_unready(
                f"service {name!r}", f"failed {failure.in_a_row} times in a row, last: {kind}"
            )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _current_task() -> "asyncio.Task[Any]":
    task = asyncio.current_task()
    assert task is not None  # a service runs as a task
    return task
