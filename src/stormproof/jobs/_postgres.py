"""The PostgreSQL store: the engine's own SQL, with what it lacks around it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from pgqueuer.adapters.persistence.queries import Queries, SyncQueries
from pgqueuer.domain.models import CancellationEvent, utc_now
from pgqueuer.domain.models import Job as PickedJob
from pgqueuer.domain.settings import db_settings
from pgqueuer.domain.types import JobId, QueueEntrypoint, QueueManagerId
from pgqueuer.ports.repository import EntrypointExecutionParameter
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session

from ._beat_postgres import PostgresBeat
from ._driver import ConnectionDriver, EngineDriver, SessionDriver, changed_notice
from ._facts import STATES, End, HeldJob, JobState, NewJob, task_of, told
from ._listener import Listener
from ._postgres_sql import Statements
from ._store import Beat, JobsDatabase, Store
from ._threads import ThreadDriver

_POOL = 3
_INSTALL_LOCK = 7_368_901


class PostgresStore(Store):
    """Jobs in the engine's tables.

    The worker has connections of its own, so that it neither waits for those of the requests
    nor takes them.

    Args:
        database: The database; its server and its arguments are used, not its pool.
        beat_every: Seconds between two heartbeats.
        keep: Seconds for which the end of a job is remembered.
    """

    def __init__(self, database: JobsDatabase, *, beat_every: float, keep: float) -> None:
        super().__init__()
        self._theirs = database.engine
        self.engine = _twin(database.engine, _POOL)
        self._queries: Queries = Queries(EngineDriver(self.engine))
        self._sql = Statements(db_settings())
        self._beat_every = beat_every
        self._keep = timedelta(seconds=keep)
        self._listener: Listener | None = None

    async def install(self) -> None:
        """Create what is missing; those who come at the same time wait for the first."""
        alone = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with alone.connect() as connection:
            await connection.execute(text(f"SELECT pg_advisory_lock({_INSTALL_LOCK})"))
            try:
                driver = ConnectionDriver(connection)
                await Queries(driver).apply_upgrade()
                if not await driver.fetch(self._sql.has_count_starts):
                    tune = self._queries.qbe.build_optimize_autovacuum_query().split(";")
                    for statement in (*self._sql.count_starts, *tune[:-1]):
                        await driver.execute(statement)
                for statement in self._sql.create:
                    await driver.execute(statement)
                await connection.execute(text(f"SELECT pg_advisory_unlock({_INSTALL_LOCK})"))
            except BaseException:
                await connection.invalidate()  # the lock is the connection's, and ends with it
                raise

    async def open(self, wake: Callable[[], None], cancel: Callable[[int], None]) -> None:
        """Listen for what other processes enqueue and cancel."""
        self._listener = Listener(
            lambda: _twin(self._theirs, 1), db_settings().channel, wake, cancel
        )
        self._listener.start()

    async def close(self) -> None:
        """Give every connection back."""
        if self._listener is not None:
            await self._listener.stop()
        await self.engine.dispose()

    async def sign_on(self, worker: str, process: str) -> None:
        """Note that this worker lives; forget those of whom nobody has heard for a day."""
        await self._queries.driver.execute(self._sql.sign_on, worker, process)

    async def sign_off(self, worker: str) -> None:
        """Note that it has ended."""
        await self._queries.driver.execute(self._sql.sign_off, worker)

    async def workers(self) -> dict[str, str]:
        """Return the process of each worker that has not signed off."""
        return {row["id"]: row["process"] for row in await self._fetch(self._sql.workers)}

    async def enqueue(self, session: Any, jobs: Sequence[NewJob]) -> list[tuple[int | None, bool]]:
        """Store `jobs` in the session's transaction, in one statement."""
        driver = SessionDriver(session)
        ids = await Queries(driver).enqueue(*_as_columns(jobs), on_conflict="skip")
        known = await driver.fetch(self._sql.by_key, _keys(jobs)) if None in ids else []
        return _receipts(jobs, ids, known)

    def enqueue_sync(
        self, session: Session, jobs: Sequence[NewJob]
    ) -> list[tuple[int | None, bool]]:
        """Store `jobs` in the transaction of a thread's session, in one statement."""
        driver = ThreadDriver(session)
        ids = SyncQueries(driver).enqueue(*_as_columns(jobs), on_conflict="skip")
        known = driver.fetch(self._sql.by_key, _keys(jobs)) if None in ids else []
        return _receipts(jobs, ids, known)

    async def lock_lease(self, session: Any, job_id: int) -> bool:
        """Whether the job is still ours; its row is locked."""
        lease = (self.leases.worker, job_id, self.leases.pick_of(job_id))
        return bool(await SessionDriver(session).fetch(self._sql.lock_lease, *lease))

    async def owns(self, job_id: int) -> bool:
        """Whether the job is still ours, at this moment."""
        lease = (self.leases.worker, job_id, self.leases.pick_of(job_id))
        return bool(await self._fetch(self._sql.owns, *lease))

    async def finish_in(self, session: Any, job_id: int) -> None:
        """End a job as done, in the session's transaction."""
        end = End(job_id, self.leases.pick_of(job_id), "successful", None)
        await SessionDriver(session).fetch(self._sql.finish, *self._columns([end]))
        self.leases.finished.add(job_id)

    async def claim(
        self, most: int, limits: Mapping[str, int], budget: int, stale_after: float
    ) -> list[PickedJob]:
        """Pick jobs with the engine's statement; a trigger counts the starts."""
        return await self._queries.dequeue(
            most,
            {
                QueueEntrypoint(task): EntrypointExecutionParameter(concurrency_limit=limit)
                for task, limit in limits.items()
            },
            QueueManagerId(self.leases.worker),
            budget,
            timedelta(seconds=stale_after),
        )

    async def finish(self, ends: Sequence[End]) -> set[int]:
        """Store ends in one statement."""
        rows = await self._fetch(self._sql.finish, *self._columns(ends))
        return {row["id"] for row in rows}

    def _columns(self, ends: Sequence[End]) -> tuple[Any, ...]:
        return (
            self.leases.worker,
            [end.job_id for end in ends],
            [end.pick for end in ends],
            [end.status for end in ends],
            [end.words for end in ends],
        )

    async def again(
        self, job_id: int, pick: int, delay: float, words: str | None, *, is_counted: bool
    ) -> bool:
        """Queue our job again."""
        lease = (self.leases.worker, job_id, pick)
        given = (timedelta(seconds=delay), int(not is_counted), words, changed_notice())
        return bool(await self._fetch(self._sql.again, *lease, *given))

    async def is_due(self, tasks: Sequence[str]) -> bool:
        """Whether a job of these tasks may start now."""
        return bool(await self._queries.eligible_queued_work([QueueEntrypoint(t) for t in tasks]))

    async def next_due_in(self, tasks: Sequence[str]) -> float | None:
        """Return the seconds until a delayed job may start."""
        left = await self._queries.next_deferred_eta([QueueEntrypoint(t) for t in tasks])
        return None if left is None else left.total_seconds()

    async def tidy(self) -> None:
        """Count what has ended, for the engine's dashboard, and forget what ended long ago."""
        await self._queries.aggregate_logs()
        await self._queries.driver.execute(self._sql.prune, self._keep)

    def beat(self, wake: Callable[[], None], cancel: Callable[[int], None]) -> Beat:
        """Return the heartbeat, on a connection of its own."""
        return PostgresBeat(
            lambda: _twin(self._theirs, 1), self._sql, self.leases, self._beat_every, cancel
        )

    async def reap(self, worker: str, words: str) -> int:
        """Give the jobs of a dead worker back."""
        rows = await self._fetch(self._sql.reap, worker, words, changed_notice())
        await self.sign_off(worker)
        return len(rows)

    async def states(self, ids: Collection[int]) -> dict[int, JobState]:
        """Return where the jobs stand."""
        found = await self._queries.job_status([JobId(job_id) for job_id in ids])
        return {job_id: STATES[status] for job_id, status in found}

    async def counts(self) -> list[dict[str, Any]]:
        """Return how many jobs of each task stand where."""
        return await self._fetch(self._sql.counts)

    async def held(self, limit: int) -> list[HeldJob]:
        """Return the held jobs, the latest first."""
        return [
            HeldJob(
                row["id"], task_of(row["entrypoint"]), row["attempts"], row["created"],
                told(row["traceback"]),
            )
            for row in await self._fetch(self._sql.held, limit)
        ]  # fmt: skip

    async def retry_held(self, ids: Collection[int]) -> int:
        """Queue held jobs again; one whose key another job has by now stays held."""
        return len(await self._fetch(self._sql.retry_held, list(ids), changed_notice()))

    async def cancel(self, ids: Collection[int]) -> int:
        """Take jobs out of the queue, and tell whoever runs one."""
        rows = await self._fetch(self._sql.cancel, list(ids))
        if rows:
            notice = CancellationEvent(
                channel=db_settings().channel,
                ids=[JobId(row["id"]) for row in rows],
                sent_at=utc_now(),
                type="cancellation_event",
            ).model_dump_json(exclude={"received_at"})
            await self._fetch("SELECT pg_notify($1, $2)", db_settings().channel, notice)
        return len(rows)

    async def last_words(self, job_id: int) -> str:
        """Return the last traceback in the job's log."""
        rows = await self._fetch(self._sql.last_words, job_id)
        return told(rows[0]["traceback"]) if rows else ""

    async def _fetch(self, statement: str, *args: object) -> list[dict[str, Any]]:
        return await self._queries.driver.fetch(statement, *args)


def _as_columns(jobs: Sequence[NewJob]) -> tuple[Any, ...]:
    return (
        [job.task for job in jobs],
        [job.payload for job in jobs],
        [job.priority for job in jobs],
        [timedelta(seconds=job.delay) for job in jobs],
        [job.key for job in jobs],
        [job.headers for job in jobs],
    )


def _keys(jobs: Sequence[NewJob]) -> list[str]:
    return [job.key for job in jobs if job.key]


def _receipts(
    jobs: Sequence[NewJob], ids: Sequence[int | None], known: Sequence[Mapping[str, Any]]
) -> list[tuple[int | None, bool]]:
    """Return for each job its id, or that of the one whose key it has, and if it is new."""
    others: dict[Any, Any] = {row["dedupe_key"]: row["id"] for row in known}
    return [
        (others.get(job.key), False) if job_id is None else (job_id, True)
        for job, job_id in zip(jobs, ids, strict=True)
    ]


def _twin(engine: AsyncEngine, size: int) -> AsyncEngine:
    """Return an engine with connections of its own, made in the same way, for any event loop."""
    # The pool's creator has no public name; it alone knows the arguments the engine was given.
    creator: Any = engine.sync_engine.pool._creator
    twin = create_async_engine(engine.url, creator=creator, pool_size=size, max_overflow=0)

    @event.listens_for(twin.sync_engine, "connect")
    def walk_the_index(connection: Any, _: object) -> None:
        # Until the table is analyzed, the planner sorts a backlog of 100,000 for each pick:
        # 2.9 ms a job, instead of 0.17 ms from the index that has the order.
        cursor = connection.cursor()
        cursor.execute("SET enable_sort = off")
        cursor.close()
        connection.commit()

    return twin
