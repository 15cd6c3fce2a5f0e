"""Tasks of jobs: a function, and how its jobs are run."""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol

from stormproof.errors import InvalidSetting

from ._facts import JobHandle, NewJob, OnFailure, line_of, lines_of
from ._payload import Arguments

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

P = ParamSpec("P")

_DOUBLINGS = 60  # 2.0 ** 1024 is an error

OPTIONS = frozenset({"session", "key", "group", "delay", "priority"})


class Home(Protocol):
    """What a task belongs to: `Jobs`."""

    async def store_jobs(self, session: "AsyncSession", jobs: Sequence[NewJob]) -> list[JobHandle]:
        """Store jobs in the session's transaction."""
        ...

    async def solve(self, task: "JobTask[Any]", stack: AsyncExitStack) -> dict[str, Any]:
        """Return the values of the task's dependencies."""
        ...


@dataclass(frozen=True, eq=False)
class JobTask(Generic[P]):
    """A function whose calls can be stored as jobs; got from `Jobs.task`.

    Calling it calls the function itself, as a test does.

    Attributes:
        name: What the store calls it; a job finds its function by this name.
        function: The function.
        arguments: What it can be called with.
        retries, backoff, max_backoff, timeout, concurrency, on_failure: As of `task`.
        max_starts, keep_result, per_group: As of `task`.
    """

    jobs: Home
    name: str
    function: Callable[P, Coroutine[Any, Any, Any]]
    arguments: Arguments
    retries: int
    backoff: float
    max_backoff: float
    timeout: float | None
    concurrency: int | None
    per_group: int | None
    on_failure: OnFailure
    max_starts: int
    keep_result: bool

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Any]:
        """Call the function, here and now."""
        return self.function(*args, **kwargs)

    async def enqueue(
        self,
        session: "AsyncSession",
        /,
        *args: Any,
        key: str | None = None,
        group: str | None = None,
        delay: float = 0.0,
        priority: int = 0,
        **kwargs: Any,
    ) -> JobHandle:
        """Store a call as a job, in the session's transaction.

        Committed means enqueued: when the transaction is rolled back there is no job. Waits for
        one statement. Cancelled: as any statement of the session.

        Args:
            session: The caller's unit of work, on the database of these jobs.
            *args: The function's arguments.
            key: No other job with this key is stored while this one is queued or running.
            group: Whose `per_group` it counts for, as "tenant:7".
            delay: Seconds before it may start, 0 or more.
            priority: Those with a higher one start first.
            **kwargs: The function's keyword arguments.

        Raises:
            InvalidArguments: The function cannot be called with them; nothing is stored.
            InvalidSetting: An option cannot be used.
        """
        payload = self.arguments.dump(*args, **kwargs)
        job = NewJob(self._line(group), payload, key, delay, priority)
        (handle,) = await self.jobs.store_jobs(session, [job])
        return handle

    async def enqueue_many(
        self,
        session: "AsyncSession",
        calls: Iterable[Mapping[str, Any]],
        /,
        *,
        group: str | None = None,
        delay: float = 0.0,
        priority: int = 0,
    ) -> list[JobHandle]:
        """Store many calls at once, each given as its keyword arguments; as `enqueue` otherwise.

        On PostgreSQL it is one statement for all.
        """
        jobs = [
            NewJob(self._line(group), self.arguments.dump(**call), None, delay, priority)
            for call in calls
        ]
        return await self.jobs.store_jobs(session, jobs)

    def lines(self) -> dict[str, int]:
        """Return what its jobs are called in the store, and how many of each may run; 0: all."""
        if self.per_group is None:
            return {self.name: self.concurrency or 0}
        return {self.name: 0, **dict.fromkeys(lines_of(self.name), self.per_group)}

    def _line(self, group: str | None) -> str:
        if group is None:
            return self.name
        if self.per_group is None:
            raise InvalidSetting(
                f"enqueue(group={group!r}) of {self.name!r}, which has no limit for each group; "
                "declare it with task(per_group=1)"
            )
        return line_of(self.name, group)

    def pause(self, failures: int, chance: float) -> float:
        """Return the seconds before the next start after `failures` failed ones.

        It doubles each time, up to `max_backoff`, and a random half of it is left out, so that
        jobs that failed together do not come back together. `chance` is in 0 to 1.
        """
        full = min(self.max_backoff, self.backoff * 2.0 ** min(failures - 1, _DOUBLINGS))
        return full * (0.5 + 0.5 * chance)

    async def inject(self, stack: AsyncExitStack) -> dict[str, Any]:
        """Return the values of the parameters that are dependencies; `stack` ends them."""
        if not self.arguments.injected:
            return {}
        return await self.jobs.solve(self, stack)
