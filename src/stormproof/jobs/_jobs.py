"""Durable jobs of a service: committed means enqueued, and what is enqueued is done."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias

from sqlalchemy import event

from stormproof._core.lifecycle import Lifecycle, Loss
from stormproof.errors import InvalidSetting, NotStarted

from ._facts import HeldJob, JobHandle, JobsStatistics, JobState, NewJob, OnFailure
from ._forward import Forwarding
from ._payload import Arguments
from ._store import JobsDatabase, Store
from ._task import OPTIONS, JobTask
from ._trace import sending
from ._worker import Worker

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

P = ParamSpec("P")

Solve: TypeAlias = Callable[[JobTask[Any], AsyncExitStack], Awaitable[dict[str, Any]]]
"""Returns the values of a task's dependencies; what must end with the job goes to the stack."""

_STALE_AFTER = 10.0
_FEWEST_STARTS = 3
_LONGEST_DELAY = 3_660 * 86_400.0


class Jobs(Forwarding):
    """Durable jobs in the service's own database: no queue server, no extra process.

    A part of the service: give it to `install` behind its database. In a script or a test,
    `async with database, jobs:` opens and closes both.

    A job is started at least once, and until it has ended well, fails for good, or is cancelled.
    A start that ended in a crash is followed by another. Work whose effect is in the same
    database happens exactly once in a `job.once(session)` block.

    Args:
        database: Where the jobs are kept: a SQLite file or a PostgreSQL database.
        concurrency: How many jobs this process runs at once, 1 or more.
        worker: Whether this process runs jobs; False: it only enqueues them.
        poll: Seconds between two looks for jobs when nobody said that there are some.
        stale_after: Seconds without a heartbeat after which a job is started elsewhere; four
            heartbeats are sent in that time, by a thread, so a blocked loop does not stop them.
        create_tables: Whether `open` creates the tables that are missing.
        keep: Days for which the end of a job is remembered.
        name: What messages call it.

    Raises:
        InvalidSetting: An argument cannot be used.
    """

    def __init__(
        self,
        database: JobsDatabase,
        *,
        concurrency: int = 10,
        worker: bool = True,
        poll: float = 5.0,
        stale_after: float = _STALE_AFTER,
        create_tables: bool = True,
        keep: float = 7.0,
        name: str = "jobs",
    ) -> None:
        if type(concurrency) is not int or concurrency < 1:
            raise InvalidSetting(f"Jobs(concurrency={concurrency!r}) must be an int of 1 or more")
        for setting, value in {"poll": poll, "stale_after": stale_after, "keep": keep}.items():
            if not value > 0:
                raise InvalidSetting(f"Jobs({setting}={value!r}) must be more than 0")
        self.concurrency = concurrency
        self.is_worker = worker
        self._database = database
        self._name = name
        self._poll = poll
        self._stale_after = stale_after
        self._create_tables = create_tables
        self._keep = keep * 86_400
        self._tasks: dict[str, JobTask[Any]] = {}
        self._solve: Solve | None = None
        self._store: Store | None = None
        self._worker: Worker | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self._name

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
        on_failure: OnFailure = "hold",
        backoff: float = 1.0,
        max_backoff: float = 300.0,
        max_starts: int | None = None,
        name: str | None = None,
    ) -> Callable[[Callable[P, Awaitable[Any]]], JobTask[P]]:
        """Return a decorator that makes an async function a task, whose calls can be stored.

        Args:
            retries: How often a job that raised is started again.
            timeout: Seconds a start may take; it is cancelled then, and has failed. It is the
                deadline of everything the function waits for. None: no limit.
            concurrency: How many of these jobs run at once in all workers together.
            on_failure: What becomes of a job that failed for good: "hold" keeps it until
                `retry` or `cancel`; "delete" leaves its traceback in the log alone.
            backoff: Seconds before the first retry; it doubles each time, a random half less.
            max_backoff: The longest of these pauses.
            max_starts: After how many starts a job is held instead of started again, whatever
                ended them: a job that kills its process ends here. Default: `retries` + 1, and
                at least 3.
            name: What the store calls it; default the function's name. Jobs that wait find
                their function by it, so it must stay when the function is renamed.

        Raises:
            InvalidSetting: An option or a parameter of the function cannot be used.
        """
        _check_task(retries, timeout, concurrency, on_failure, backoff, max_backoff)

        def decorate(function: Callable[P, Awaitable[Any]]) -> JobTask[P]:
            named = name or str(getattr(function, "__name__", function))
            if named in self._tasks:
                raise InvalidSetting(f"two tasks of {self._name!r} are called {named!r}")
            task = JobTask(
                self, named, function, Arguments(named, function, reserved=OPTIONS),
                retries, backoff, max_backoff, timeout, concurrency, on_failure,
                max_starts or max(retries + 1, _FEWEST_STARTS),
            )  # fmt: skip
            self._tasks[named] = task
            return task

        return decorate

    async def open(self, lifecycle: Lifecycle | None = None) -> None:
        """Create missing tables, take the jobs of dead processes back, and begin to run.

        Raises:
            DatabaseUnavailable: The database cannot be used.
        """
        self._store = _new_store(self._database, self._stale_after / 4, self._keep)
        try:
            if self._create_tables:
                await self._store.install()
            if self.is_worker:
                self._worker = Worker(
                    self._store,
                    self._tasks,
                    concurrency=self.concurrency,
                    poll=self._poll,
                    stale_after=self._stale_after,
                )
                await self._worker.start()
        except BaseException:
            await self.close()
            raise

    async def drain(self, until: float) -> Sequence[Loss]:
        """Start no more jobs, let those that run end, and give the rest back, by `until`.

        What is given back is started by another worker at once, or at the next start of this
        one; so there are never losses. Cancelled (a second signal): what runs is left to the
        next, too.
        """
        if self._worker is not None:
            await self._worker.drain(until)
        return []

    async def close(self) -> None:
        """End the worker and give its connections back; twice is harmless."""
        store, worker = self._store, self._worker
        self._store = self._worker = None
        if worker is not None:
            await worker.stop()
        elif store is not None:
            await store.close()

    async def __aenter__(self) -> "Jobs":
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def statistics(self) -> JobsStatistics:
        """Return what this process has done with jobs; all zero where it runs none."""
        return JobsStatistics() if self._worker is None else self._worker.statistics()

    async def status(self, job_id: int) -> JobState | None:
        """Return where a job stands; None: nobody knows it, or it ended long ago."""
        return (await self._opened().states([job_id])).get(job_id)

    async def held(self, limit: int = 100) -> list[HeldJob]:
        """Return the jobs that failed for good and are kept, the latest first."""
        return await self._opened().held(limit)

    async def retry(self, *ids: int) -> int:
        """Queue held jobs again, with all their starts; return how many there were."""
        count = await self._opened().retry_held(ids) if ids else 0
        self.wake()
        return count

    async def cancel(self, *ids: int) -> int:
        """Take jobs out of the queue; one that runs is cancelled, in whichever process it is.

        Returns:
            How many there were that waited, were held, or ran.
        """
        count = await self._opened().cancel(ids) if ids else 0
        for job_id in ids:
            if self._worker is not None:
                self._worker.cancel(job_id)
        return count

    def wake(self) -> None:
        """Look for jobs now; enqueueing does it by itself."""
        if self._worker is not None:
            self._worker.wake()

    async def store_jobs(self, session: "AsyncSession", jobs: Sequence[NewJob]) -> list[JobHandle]:
        """Store jobs in the session's transaction, and look for them once it has committed."""
        for job in jobs:
            if not 0 <= job.delay <= _LONGEST_DELAY:
                raise InvalidSetting(f"enqueue(delay={job.delay!r}) must be 0 s to ten years")
        with sending(jobs) as on_their_way:
            stored = await self._opened().enqueue(session, on_their_way.jobs)
            on_their_way.stored([job_id for job_id, _ in stored])
        self._wake_after_commit(session)
        return [
            JobHandle(job_id, job.task, is_new)
            for job, (job_id, is_new) in zip(jobs, stored, strict=True)
        ]

    def solve_with(self, solve: Solve) -> None:
        """Let `solve` find the values of dependencies; `install` does it with FastAPI's."""
        self._solve = solve

    async def solve(self, task: JobTask[Any], stack: AsyncExitStack) -> dict[str, Any]:
        """Return the values of the task's dependencies."""
        if self._solve is None:
            raise NotStarted(
                f"task {task.name!r} has dependencies, and nobody here knows how to solve them; "
                f"give {self._name!r} to install(app, ...)"
            )
        return await self._solve(task, stack)

    def _wake_after_commit(self, session: Any) -> None:
        if self._worker is None:
            return
        on_commit = getattr(session, "on_commit", None)
        if on_commit is not None:
            on_commit(self.wake)
        else:
            event.listen(session.sync_session, "after_commit", lambda _: self.wake(), once=True)

    def _opened(self) -> Store:
        if self._store is None:
            raise NotStarted(
                f"{self._name!r} is not open; give it to install(app, database, jobs), or use "
                "`async with jobs:`"
            )
        return self._store


def _new_store(database: JobsDatabase, beat_every: float, keep: float) -> Store:
    """Return the store for the database's kind."""
    kind = database.engine.dialect.name
    if kind == "sqlite":
        from ._sqlite import SqliteStore

        return SqliteStore(database, beat_every=beat_every, keep=keep)
    if kind == "postgresql":
        from ._postgres import PostgresStore

        return PostgresStore(database, beat_every=beat_every, keep=keep)
    raise InvalidSetting(f"jobs cannot be kept in {kind!r}; use SQLite or PostgreSQL")


def _check_task(
    retries: int,
    timeout: float | None,
    concurrency: int | None,
    on_failure: str,
    backoff: float,
    max_backoff: float,
) -> None:
    if type(retries) is not int or retries < 0:
        raise InvalidSetting(f"task(retries={retries!r}) must be an int of 0 or more")
    if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
        raise InvalidSetting(f"task(concurrency={concurrency!r}) must be None or 1 or more")
    if on_failure not in ("hold", "delete"):
        raise InvalidSetting(f"task(on_failure={on_failure!r}) must be 'hold' or 'delete'")
    seconds = {"timeout": timeout, "backoff": backoff, "max_backoff": max_backoff}
    for option, value in seconds.items():
        if value is not None and not value > 0:
            raise InvalidSetting(f"task({option}={value!r}) must be more than 0 s")
