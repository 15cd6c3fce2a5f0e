"""The roll: which tasks run, how each one ended, and the one place that says so."""

import asyncio
import logging
import threading
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from stormproof._core.clock import MONOTONIC, Clock
from stormproof._core.events import Events, TaskFailed, TaskRefused
from stormproof._core.origin import Origin
from stormproof._core.primitives import register
from stormproof.errors import TasksFull

from ._handle import AnyHandle, TaskState
from ._service import ServiceFailure

_RETRY_AFTER = 1.0

_log = logging.getLogger("stormproof")


@dataclass(frozen=True, slots=True)
class TasksStatistics:
    """What the supervisor is doing and has done; accepted = running + the five ends.

    Attributes:
        running: Spawned tasks that have not ended, or are being handed over.
        services: Services that have not ended; they are in none of the other counts.
        accepted: Tasks that `spawn` took.
        finished: Tasks that ended by returning.
        failed: Tasks that ended with an exception.
        cancelled: Tasks that were cancelled, at a drain or by themselves.
        timed_out: Tasks that were cancelled by their timeout.
        handed_over: Tasks that were cancelled by a drain and taken over by somebody else.
        refused: Tasks that were not accepted because too many were running.
    """

    running: int
    services: int
    accepted: int
    finished: int
    failed: int
    cancelled: int
    timed_out: int = 0
    handed_over: int = 0
    refused: int = 0


class Roll:
    """The strong references to all tasks, and the counts of those that have ended.

    Args:
        name: What error messages and `primitives()` call the supervisor.
        max_running: How many tasks may be running or promised at once; services not counted.
    """

    def __init__(self, name: str, max_running: int) -> None:
        self.clock: Clock = MONOTONIC
        self.events = Events()
        # The only strong references: asyncio itself holds tasks weakly, and one that waits
        # on nothing but objects of its own is collected in the middle of its work.
        self.running: dict[asyncio.Task[Any], AnyHandle] = {}
        self.name = name
        self._max_running = max_running
        self._services = self._promised = 0
        self._accepted = self._refused = 0
        self._ends: dict[TaskState, int] = {}
        self._lock = threading.Lock()
        register("tasks", self)

    def tasks(self) -> list[AnyHandle]:
        """Return who was spawned and has not ended."""
        return [handle for handle in list(self.running.values()) if not handle.is_service]

    def services(self) -> list[AnyHandle]:
        """Return the services that have not ended."""
        return [handle for handle in list(self.running.values()) if handle.is_service]

    def statistics(self) -> TasksStatistics:
        """Return the counts of this moment."""
        ends = self._ends
        return TasksStatistics(
            running=self._accepted - sum(ends.values()),
            services=self._services,
            accepted=self._accepted,
            finished=ends.get("finished", 0),
            failed=ends.get("failed", 0),
            cancelled=ends.get("cancelled", 0),
            timed_out=ends.get("timed_out", 0),
            handed_over=ends.get("handed_over", 0),
            refused=self._refused,
        )

    def promise(self, name: str) -> None:
        """Keep a place for a task that may be started soon; from any thread.

        Raises:
            TasksFull: All places are taken.
        """
        with self._lock:
            taken = len(self.running) - self._services + self._promised
            if taken < self._max_running:
                self._promised += 1
                return
            self._refused += 1
        self.events.emit(TaskRefused(name, taken, self._max_running))
        raise TasksFull(
            f"tasks {self.name!r} are full ({taken} of {self._max_running} running), so {name!r} "
            "was not started; try later, shed earlier with a Limiter, or raise max_running",
            retry_after=_RETRY_AFTER,
        )

    def release(self) -> None:
        """Give a promised place back: the task was started, or never will be."""
        with self._lock:
            self._promised -= 1

    def add(self, handle: AnyHandle, context: Context) -> None:
        """Take a started task in, and report its end, in `context`, when it comes."""
        self.running[handle._task] = handle
        if handle.is_service:
            self._services += 1
        else:
            self._accepted += 1
        # The default is a copy of the context of this moment, which holds the whole request.
        handle._task.add_done_callback(self._ended, context=context)

    def count(self, state: TaskState) -> None:
        """Count one task out that ended so."""
        self._ends[state] = self._ends.get(state, 0) + 1

    def service_failed(
        self, name: str, failure: ServiceFailure, origin: Origin | None, most: int | None
    ) -> None:
        """Report one failure of a service, in the words of any other task's."""
        if failure.pause is None:
            then = "it is not started again"
        else:
            limit = "" if most is None else f" of {most}"
            then = f"restart {failure.in_a_row}{limit} in a row follows in {failure.pause:.1f} s"
        self._failed(name, f"failed {failure.lasted:.2f} s after its start", failure.error,
                     failure.lasted, origin, then)  # fmt: skip

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        """Count a task out; report its failure, here and nowhere else."""
        handle = self.running.pop(task)
        state = handle._settle()
        age = self.clock.now() - handle.started_at
        error = None if task.cancelled() else task.exception()
        if handle.is_service:
            self._services -= 1
            return  # each of its failures was reported when it happened
        if state != "running":
            self.count(state)
        if error is not None:
            what = f"failed {age:.2f} s after its start"
            self._failed(handle.name, what, error, age, handle.origin)
        elif state == "timed_out":
            what = f"was cut {age:.2f} s after its start"
            error = TimeoutError(f"its timeout of {handle._work.timeout} s was over")
            self._failed(handle.name, what, error, age, handle.origin)
        elif state == "cancelled" and not handle._is_left_behind:
            _log.warning(
                "task %r was cancelled %.2f s after its start%s",
                handle.name, age, self._from(handle.origin),
            )  # fmt: skip

    def _failed(
        self,
        name: str,
        what: str,
        error: BaseException,
        age: float,
        origin: Origin | None,
        then: str = "",
    ) -> None:
        ending = self._from(origin) + (f"; {then}" if then else "")
        _log.error("task %r %s: %r%s", name, what, error, ending, exc_info=error)
        request = None if origin is None else origin.name
        self.events.emit(TaskFailed(name, repr(error), age, request))

    def _from(self, origin: Origin | None) -> str:
        return "" if origin is None else f" (from {origin.described(self.clock.now())})"
