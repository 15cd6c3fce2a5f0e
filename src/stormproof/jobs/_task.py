"""Tasks of jobs: a function, and how its jobs are run."""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol

from sqlalchemy.orm import Session

from stormproof.errors import InvalidArguments, InvalidSetting

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

    def store_jobs_sync(self, session: Session, jobs: Sequence[NewJob]) -> list[JobHandle]:
        """Store jobs in the transaction of a session that is used in a thread."""
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

    def enqueue(
        self,
        session: "AsyncSession",
        /,
        *args: Any,
        key: str | None = None,
        group: str | None = None,
        delay: float = 0.0,
        priority: int = 0,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, JobHandle]:
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
            InvalidArguments: The function cannot be called with them, or the session is a sync
                one (said at the call, not at the await); nothing is stored.
            InvalidSetting: An option cannot be used.
        """
        self._refuse_sync(session)
        return self._enqueue(session, args, kwargs, key, group, delay, priority)

    def enqueue_sync(
        self,
        session: Session,
        /,
        *args: Any,
        key: str | None = None,
        group: str | None = None,
        delay: float = 0.0,
        priority: int = 0,
        **kwargs: Any,
    ) -> JobHandle:
        """Store a call as a job, from a thread: as `enqueue`, for a `def` endpoint.

        The session is that of `Database.sync_session`, or any `sqlalchemy.orm.Session` on this
        database. Blocks the thread for one statement. When the request is cancelled or its
        deadline passes, that statement is cut as any other of the session, and what was enqueued
        is undone with the session; from then on it raises what the session raises. A COMMIT that
        is under way comes to its end: then there is a job.

        Raises:
            InvalidArguments: The function cannot be called with them, or the session is an async
                one; nothing is stored.
            InvalidSetting: An option cannot be used.

        versionadded: 0.1
        """
        job = self._job(args, kwargs, key, group, delay, priority)
        (handle,) = self.jobs.store_jobs_sync(self._sync(session), [job])
        return handle

    def enqueue_many(
        self,
        session: "AsyncSession",
        calls: Iterable[Mapping[str, Any]],
        /,
        *,
        group: str | None = None,
        delay: float = 0.0,
        priority: int = 0,
    ) -> Coroutine[Any, Any, list[JobHandle]]:
        """Store many calls at once, each given as its keyword arguments; as `enqueue` otherwise.

        On PostgreSQL it is one statement for all.
        """
        self._refuse_sync(session)
        return self._enqueue_many(session, calls, group, delay, priority)

    def enqueue_many_sync(
        self,
        session: Session,
        calls: Iterable[Mapping[str, Any]],
        /,
        *,
        group: str | None = None,
        delay: float = 0.0,
        priority: int = 0,
    ) -> list[JobHandle]:
        """Store many calls at once, from a thread: as `enqueue_many` and `enqueue_sync`.

        versionadded: 0.1
        """
        jobs = [self._job((), call, None, group, delay, priority) for call in calls]
        return self.jobs.store_jobs_sync(self._sync(session), jobs)

    async def _enqueue(
        self, session: "AsyncSession", args: Any, kwargs: Any, *options: Any
    ) -> JobHandle:
        (handle,) = await self.jobs.store_jobs(session, [self._job(args, kwargs, *options)])
        return handle

    async def _enqueue_many(
        self, session: "AsyncSession", calls: Iterable[Mapping[str, Any]], *options: Any
    ) -> list[JobHandle]:
        jobs = [self._job((), call, None, *options) for call in calls]
        return await self.jobs.store_jobs(session, jobs)

    def _job(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        key: str | None,
        group: str | None,
        delay: float,
        priority: int,
    ) -> NewJob:
        payload = self.arguments.dump(*args, **kwargs)
        return NewJob(self._line(group), payload, key, delay, priority)

    def _refuse_sync(self, session: object) -> None:
        # Said here, and not in the coroutine: a `def` endpoint awaits nothing, so it would never
        # be said, and the endpoint would commit without its job.
        if isinstance(session, Session):
            raise InvalidArguments(
                f"job {self.name!r}: enqueue() takes an AsyncSession, and this is a "
                f"{type(session).__name__} for threads; use enqueue_sync() or enqueue_many_sync()"
            )

    def _sync(self, session: Session) -> Session:
        if isinstance(session, Session):
            return session
        raise InvalidArguments(
            f"job {self.name!r}: enqueue_sync() takes a session for threads, as that of "
            f"sync_session(), and this is a {type(session).__name__}; use `await enqueue()`"
        )

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
