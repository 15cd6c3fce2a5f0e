"""Durable jobs of a service: committed means enqueued, and what is enqueued is done."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias

from stormproof._arguments import check_count, check_seconds
from stormproof._core.events import Events
from stormproof._core.lifecycle import Lifecycle, Loss
from stormproof._core.primitives import register
from stormproof.errors import InvalidArguments, InvalidSetting, NotStarted

from ._cron import Cron
from ._declare import Declarations
from ._facts import HeldJob, JobHandle, JobsStatistics, JobState, NewJob, task_of
from ._forward import Forwarding
from ._handover import UnfinishedTask
from ._outcomes import JobOutcome, Outcomes
from ._store import JobsDatabase, Store
from ._task import JobTask
from ._threads import after_commit
from ._trace import sending
from ._worker import Worker

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

P = ParamSpec("P")

Solve: TypeAlias = Callable[[JobTask[Any], AsyncExitStack], Awaitable[dict[str, Any]]]
"""Returns the values of a task's dependencies; what must end with the job goes to the stack."""


_STALE_AFTER = 10.0
_HELD_SHOWN = 50
_LONGEST_DELAY = 3_660 * 86_400.0


class Jobs(Declarations, Forwarding):
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
        check_count("Jobs", concurrency=concurrency)
        check_seconds("Jobs", poll=poll, stale_after=stale_after)
        if not keep > 0:
            raise InvalidSetting(f"Jobs(keep={keep!r}) must be days, more than 0")
        super().__init__(name)
        self.concurrency = concurrency
        self.is_worker = worker
        self._database = database
        self._poll = poll
        self._stale_after = stale_after
        self._create_tables = create_tables
        self._keep = keep * 86_400
        register("jobs", self)
        self._outcomes = Outcomes(database.session, self._keep)
        self._solve: Solve | None = None
        self._store: Store | None = None
        self._worker: Worker | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self._name

    async def open(self, lifecycle: Lifecycle | None = None) -> None:
        """Create missing tables, take the jobs of dead processes back, and begin to run.

        To be declared before: a worker runs the tasks that were known when it was opened.

        Args:
            lifecycle: Whose events get `JobFailed`; None: alone.

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
                    outcomes=self._outcomes,
                    events=Events() if lifecycle is None else lifecycle.events,
                    services=self._services(),
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

    async def outcome(self, job_id: int) -> JobOutcome:
        """Return what a job said with `job.report`, and what it returned, if that is kept."""
        return await self._outcomes.of(job_id)

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

    async def overview(self) -> dict[str, Any]:
        """Return what an operator wants to see, as JSON: counts, held jobs, unknown tasks.

        Of each task: `queued` (could start), `delayed`, `running`, `held`, and `oldest_waiting`,
        the seconds for which the first of the queued ones could have started. `unknown`: tasks
        that have jobs and no function here; without one anywhere, they wait for ever.

        The admin listener of `stormproof serve` shows it at `/jobs`. Waits for the database.
        """
        store = self._opened()
        counts = {row.pop("of_task"): row for row in await store.counts()}
        return {
            "name": self._name,
            "here": asdict(self.statistics()),
            "tasks": counts,
            "unknown": sorted(set(counts) - set(self._tasks)),
            "held": [
                {**asdict(job), "created_at": job.created_at.isoformat()}
                for job in await store.held(_HELD_SHOWN)
            ],
        }

    def wake(self) -> None:
        """Look for jobs now; enqueueing does it by itself."""
        if self._worker is not None:
            self._worker.wake()

    async def store_jobs(self, session: "AsyncSession", jobs: Sequence[NewJob]) -> list[JobHandle]:
        """Store jobs in the session's transaction, and look for them once it has committed."""
        _check_delays(jobs)
        if not jobs:
            return []
        with sending(jobs) as on_their_way:
            stored = await self._opened().enqueue(session, on_their_way.jobs)
            on_their_way.stored([job_id for job_id, _ in stored])
        if self._worker is not None and hasattr(session, "on_commit"):
            session.on_commit(self.wake)
        elif self._worker is not None:
            after_commit(session.sync_session, self._wake_from_thread)
        return _handles(jobs, stored)

    def store_jobs_sync(self, session: "Session", jobs: Sequence[NewJob]) -> list[JobHandle]:
        """As `store_jobs`, in a thread, with a session that is used in it."""
        _check_delays(jobs)
        if not jobs:
            return []
        with sending(jobs) as on_their_way:
            stored = self._opened().enqueue_sync(session, on_their_way.jobs)
            on_their_way.stored([job_id for job_id, _ in stored])
        if self._worker is not None:
            after_commit(session, self._wake_from_thread)
        return _handles(jobs, stored)

    def run_here(self, concurrency: int) -> None:
        """Run jobs in this process, so many at once, whatever was said before; before `open`."""
        self.is_worker, self.concurrency = True, concurrency

    async def handover(self, unfinished: Sequence[UnfinishedTask]) -> Sequence[str]:
        """Store tasks that a drain has cut as jobs: for `Tasks(handover=jobs.handover)`.

        Each that was spawned with a task of these jobs (`tasks.options(on_shutdown="handover")
        .spawn(send_receipt, 7)`) becomes a job, and begins anew where a worker runs.

        Returns:
            The ids of those that are stored; the others are no tasks of these jobs, or have
            arguments that cannot be stored.
        """
        stored = []
        known = {id(call): task for task in self._tasks.values() for call in (task, task.function)}
        async with self._database.session() as session:
            for lost in unfinished:
                task = known.get(id(lost.function))
                if task is None:
                    continue
                with suppress(InvalidArguments):
                    await task.enqueue(session, *lost.args, **lost.kwargs)
                    stored.append(lost.id)
        return stored

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

    def _services(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        if not self._schedules:
            return []

        async def enqueue(session: "AsyncSession", task: JobTask[Any], key: str) -> None:
            await self.store_jobs(session, [NewJob(task.name, task.arguments.dump(), key)])

        return [Cron(self._schedules, self._database.session, enqueue).run]

    def _wake_from_thread(self) -> None:
        worker = self._worker
        if worker is not None:
            worker.wake_from_thread()

    def _opened(self) -> Store:
        if self._store is None:
            raise NotStarted(
                f"{self._name!r} is not open; give it to install(app, database, jobs), or use "
                "`async with jobs:`"
            )
        return self._store


def _check_delays(jobs: Sequence[NewJob]) -> None:
    for job in jobs:
        if not 0 <= job.delay <= _LONGEST_DELAY:
            raise InvalidSetting(f"enqueue(delay={job.delay!r}) must be 0 s to ten years")


def _handles(jobs: Sequence[NewJob], stored: Sequence[tuple[int | None, bool]]) -> list[JobHandle]:
    return [
        JobHandle(job_id, task_of(job.task), is_new)
        for job, (job_id, is_new) in zip(jobs, stored, strict=True)
    ]


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
