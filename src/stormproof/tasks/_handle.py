"""The receipt for one accepted task: its id, its state, and a way to wait for its end."""

import asyncio
import uuid
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from stormproof._core.lifecycle import Loss
from stormproof._core.origin import Origin
from stormproof._core.place import waiting_place
from stormproof.errors import DeadlineExceeded, TasksClosed

from ._work import Work

T = TypeVar("T")

TaskState: TypeAlias = Literal[
    "running", "finished", "failed", "cancelled", "timed_out", "handed_over"
]
"""Where a task stands; it leaves "running" once, for good."""

CutAs: TypeAlias = Literal["cancelled", "timed_out", "handed_over"]


class TaskHandle(Generic[T]):
    """The receipt for one task: its id, its name, its state, and a way to wait for its end.

    Not needed to keep the task alive: the supervisor does that.

    Attributes:
        id: 32 hexadecimal digits, unique also over processes, fit to be given to a client.
        name: What log lines and losses call the task.
        started_at: Monotonic time of its start, in seconds.
        is_service: Whether it was started with `service`.
        origin: The request that it was started from, or None.
    """

    __slots__ = (
        "_cut_as", "_is_left_behind", "_state", "_task", "_timer", "_work",
        "id", "is_service", "name", "origin", "started_at",
    )  # fmt: skip

    def __init__(
        self, work: Work[T], task: "asyncio.Task[T]", started_at: float, origin: Origin | None
    ) -> None:
        self.id = uuid.uuid4().hex
        self.name = work.name
        self.started_at = started_at
        self.is_service = work.is_service
        self.origin = origin
        self._work = work
        self._task = task
        self._state: TaskState = "running"
        self._cut_as: CutAs | None = None
        self._is_left_behind = False
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<TaskHandle {self.name!r} {'done' if self.done() else 'running'}>"

    @property
    def state(self) -> TaskState:
        """Where the task stands.

        One that was cut, and then returned instead of giving in, is "cancelled" or "timed_out"
        all the same, because nobody can tell how much it did.
        """
        return self._state

    def done(self) -> bool:
        """Return whether the task has ended, however it ended."""
        return self._task.done()

    async def wait(self) -> T:
        """Wait for the task's end and return its result; for the event loop's thread only.

        Has no limit of its own. Cancelled while waiting: the task goes on.

        Raises:
            Exception: What the task raised. The supervisor has logged it already.
            DeadlineExceeded: When the task was not done within its `timeout`.
            TasksClosed: When the task was cancelled or handed over, at a drain for example.
        """
        await asyncio.wait((self._task,))
        if not self._task.cancelled() and self._task.exception() is not None:
            return self._task.result()
        if self._cut_as == "timed_out":
            raise DeadlineExceeded(
                f"task {self.name!r} was not done within its timeout of {self._work.timeout} s; "
                "give it longer, or make it do less"
            )
        if self._cut_as == "handed_over":
            raise TasksClosed(f"task {self.name!r} was given up by this service before it was done")
        if self._cut_as is not None or self._task.cancelled():
            raise TasksClosed(f"task {self.name!r} was cancelled before it was done")
        return self._task.result()

    def _cut(self, cut_as: CutAs = "cancelled") -> None:
        """Cancel the task, once: a second time would break into its clean-up."""
        if self._cut_as is None:
            self._cut_as = cut_as
            self._task.cancel()

    def _settle(self) -> TaskState:
        """Note how the task has ended; a handover is noted when somebody has taken it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._cut_as == "handed_over":
            return "running"
        if not self._task.cancelled() and self._task.exception() is not None:
            self._state = "failed"
        elif self._cut_as is not None:
            self._state = self._cut_as
        else:
            self._state = "cancelled" if self._task.cancelled() else "finished"
        return self._state

    def _loss(self, kind: str, now: float) -> Loss:
        """Return what is lost by cutting the task now."""
        place = waiting_place(self._task)
        detail = place if self.origin is None else f"{place}, from {self.origin.described(now)}"
        return Loss(kind, self.name, now - self.started_at, detail)


AnyHandle: TypeAlias = TaskHandle[Any]
