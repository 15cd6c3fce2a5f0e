"""The SQLite store: jobs in the database's own file, each change one short writing transaction."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pgqueuer.domain.models import Job as PickedJob
from pydantic_core import from_json, to_json
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from . import _sqlite_sql as sql
from ._beat_sqlite import SqliteBeat
from ._facts import STATES, End, HeldJob, JobState, NewJob, task_of, told
from ._sqlite_file import Rows, Run, SqliteFile
from ._store import Beat, JobsDatabase, Store
from ._threads import in_turn

_PATIENCE = 5.0
_AT_ONCE = 500
_AT_ONCE_IN_THREADS = 20
"""SQLAlchemy takes 0.1 s to compile 500 at once, for each number of them, and keeps what it has."""

_FORGET_AFTER = 86_400.0


class SqliteStore(Store):
    """Jobs in a SQLite file, beside the tables of the app.

    That a job was picked, and that it has ended, is written without waiting for the disk: when
    a power cut undoes it, the job is started again, as after a crash in its middle.

    Args:
        database: The database whose file it is.
        beat_every: Seconds between two heartbeats.
        keep: Seconds for which the end of a job is remembered.
    """

    def __init__(self, database: JobsDatabase, *, beat_every: float, keep: float) -> None:
        super().__init__()
        self._path = database.engine.url.database or ""
        self._file = SqliteFile(self._path, patience=_PATIENCE)
        self._beat_every = beat_every
        self._keep = keep
        self._suspects: dict[int, tuple[float, float]] = {}
        self._may_be_more = False

    async def install(self) -> None:
        """Create the tables that are missing."""
        await self._file.write(lambda run: [run(statement, ()) for statement in sql.SCHEMA])

    async def open(self, wake: Callable[[], None], cancel: Callable[[int], None]) -> None:
        """Do nothing: what happens in other processes the heartbeat's thread sees."""

    async def close(self) -> None:
        """Close the connection."""
        await self._file.close()

    async def sign_on(self, worker: str, process: str) -> None:
        """Note that this worker lives; forget those of whom nobody has heard for a day."""
        now = time.time()

        def sign(run: Run) -> None:
            run(sql.FORGET, (now - _FORGET_AFTER,))
            run(sql.SIGN_ON, (worker, process, now))

        await self._file.write(sign)

    async def sign_off(self, worker: str) -> None:
        """Note that it has ended."""
        await self._file.write(lambda run: run(sql.SIGN_OFF, (worker,)))

    async def workers(self) -> dict[str, str]:
        """Return the process of each worker that has not signed off."""
        rows = await self._file.read(lambda run: run(sql.WORKERS, ()))
        return {row["id"]: row["process"] for row in rows}

    async def enqueue(self, session: Any, jobs: Sequence[NewJob]) -> list[tuple[int | None, bool]]:
        """Store `jobs` in the session's transaction."""

        def insert(sync: Any) -> list[tuple[int | None, bool]]:
            return _insert_all(_runner(sync.connection()), jobs, _AT_ONCE)

        stored: list[tuple[int | None, bool]] = await session.run_sync(insert)
        return stored

    def enqueue_sync(
        self, session: Session, jobs: Sequence[NewJob]
    ) -> list[tuple[int | None, bool]]:
        """Store `jobs` in the transaction of a thread's session."""

        def run(statement: str, given: tuple[Any, ...]) -> Rows:
            return in_turn(session, statement, given)

        whole = len(jobs) - len(jobs) % _AT_ONCE_IN_THREADS
        stored = _insert_all(run, jobs[:whole], _AT_ONCE_IN_THREADS)
        return stored + [_insert(run, job) for job in jobs[whole:]]

    async def lock_lease(self, session: Any, job_id: int) -> bool:
        """Whether the job is still ours; the session is the only writer, which locks it."""
        lease = (job_id, str(self.leases.worker), self.leases.pick_of(job_id))
        return bool(
            await session.run_sync(lambda sync: _runner(sync.connection())(sql.LEASE, lease))
        )

    async def owns(self, job_id: int) -> bool:
        """Whether the job is still ours, at this moment."""
        lease = (job_id, str(self.leases.worker), self.leases.pick_of(job_id))
        return bool(await self._file.read(lambda run: run(sql.LEASE, lease)))

    async def finish_in(self, session: Any, job_id: int) -> None:
        """End a job as done, in the session's transaction."""
        end = End(job_id, self.leases.pick_of(job_id), "successful", None)
        await session.run_sync(lambda sync: self._end(_runner(sync.connection()), [end]))
        self.leases.finished.add(job_id)

    async def claim(
        self, most: int, limits: Mapping[str, int], budget: int, stale_after: float
    ) -> list[PickedJob]:
        """Pick jobs; writes only when there is something to write."""

        def claim(run: Run) -> list[PickedJob]:
            return self._claim(run, most, limits, budget, stale_after)

        if not self._may_be_more and not await self._is_work(list(limits), stale_after):
            return []
        jobs = await self._file.write(claim, flush=False)
        self._may_be_more = bool(jobs)
        return jobs

    def _claim(
        self,
        run: Run,
        most: int,
        limits: Mapping[str, int],
        budget: int,
        stale_after: float,
    ) -> list[PickedJob]:
        now, worker = time.time(), str(self.leases.worker)
        run(sql.PROMOTE, (now,))
        room = min(most, budget - len(self.leases.ids()))
        stale = self._stale(run(sql.STALE, (now - stale_after,)), limits, now)
        rooms = {task: room for task, limit in limits.items() if not limit}
        if len(rooms) < len(limits):
            running = {row["task"]: row["count"] for row in run(sql.RUNNING, ())}
            for task, limit in limits.items():
                if limit > running.get(task, 0):
                    rooms[task] = min(room, limit - running.get(task, 0))
        if room <= 0 or not (rooms or stale):
            return []
        wanted = [part for task_and_room in rooms.items() for part in task_and_room]
        rows = run(
            sql.claim(len(rooms), len(stale)),
            (now, now, worker, *wanted, *stale, room),
        )
        return sorted(map(_picked, rows), key=lambda job: (-job.priority, job.id))

    def _stale(self, late: Rows, tasks: Collection[str], now: float) -> list[int]:
        """Return the jobs whose heartbeat is late in a second look as well.

        After the machine has slept, or behind a long writing transaction, the heartbeat of a
        living worker is late, too; until the second look it comes.
        """
        suspects = {}
        for row in late:
            beat, seen_at = self._suspects.get(row["id"], (None, now))
            suspects[row["id"]] = (row["heartbeat"], seen_at if beat == row["heartbeat"] else now)
        self._suspects = suspects
        ours = {row["id"] for row in late if row["task"] in tasks}
        return [
            job
            for job, (_, seen_at) in suspects.items()
            if job in ours and now - seen_at >= self._beat_every
        ]

    async def _is_work(self, tasks: Sequence[str], stale_after: float) -> bool:
        now = time.time()
        return await self._file.read(
            lambda run: bool(
                (tasks and run(sql.any_due(tasks), tuple(tasks)))
                or run(sql.ANY_LATER_DUE, (now,))
                or run(sql.ANY_PICKED_STALE, (now - stale_after,))
            )
        )

    async def finish(self, ends: Sequence[End]) -> set[int]:
        """Store ends in one transaction."""
        return await self._file.write(lambda run: self._end(run, ends), flush=False)

    def _end(self, run: Run, ends: Sequence[End]) -> set[int]:
        ours, now, worker = set(), time.time(), str(self.leases.worker)
        for end in ends:
            lease = (end.job_id, worker, end.pick)
            is_held = end.status == "failed"
            rows = run(sql.HOLD, (now, *lease)) if is_held else run(sql.FINISH, lease)
            for row in rows:
                ours.add(end.job_id)
                log = (end.job_id, row["task"], end.status, now, end.words)
                run(sql.LOG, log)
        return ours

    async def again(
        self, job_id: int, pick: int, delay: float, words: str | None, *, is_counted: bool
    ) -> bool:
        """Queue our job again; other processes see that the file has changed."""
        now, worker = time.time(), str(self.leases.worker)

        def queue(run: Run) -> bool:
            given = (int(delay <= 0), now + delay, now, int(not is_counted))
            rows = run(sql.AGAIN, (*given, job_id, worker, pick))
            for row in rows:
                run(sql.LOG, (job_id, row["task"], "queued", now, words))
            return bool(rows)

        was_ours = await self._file.write(queue, flush=False)
        self._may_be_more = True
        return was_ours

    async def is_due(self, tasks: Sequence[str]) -> bool:
        """Whether a job of these tasks may start now."""
        return await self._is_work(tasks, float("inf"))

    async def next_due_in(self, tasks: Sequence[str]) -> float | None:
        """Return the seconds until a delayed job may start."""
        rows = await self._file.read(lambda run: run(sql.NEXT_LATER, ()))
        at = next(iter(rows[0].values()))
        return None if at is None else at - time.time()

    async def tidy(self) -> None:
        """Forget what ended long ago."""
        await self._file.write(lambda run: run(sql.PRUNE, (time.time() - self._keep,)))

    def beat(self, wake: Callable[[], None], cancel: Callable[[int], None]) -> Beat:
        """Return the heartbeat of this file."""
        return SqliteBeat(self._path, self.leases, self._beat_every, wake=wake, cancel=cancel)

    async def reap(self, worker: str, words: str) -> int:
        """Give the jobs of a dead worker back."""
        now = time.time()

        def take(run: Run) -> int:
            rows = run(sql.REAP, (now, worker))
            for row in rows:
                run(sql.LOG, (row["id"], row["task"], "queued", now, words))
            run(sql.SIGN_OFF, (worker,))
            return len(rows)

        self._may_be_more = True
        return await self._file.write(take)

    async def states(self, ids: Collection[int]) -> dict[int, JobState]:
        """Return where the jobs stand."""
        rows = await self._file.read(lambda run: run(sql.states(len(ids)), (*ids, *ids)))
        return {row["id"]: STATES[row["status"]] for row in rows}

    async def counts(self) -> list[dict[str, Any]]:
        """Return how many jobs of each task stand where."""
        now = time.time()
        return [dict(row) for row in await self._file.read(lambda run: run(sql.COUNTS, (now,) * 3))]

    async def held(self, limit: int) -> list[HeldJob]:
        """Return the held jobs, the latest first."""
        return [
            HeldJob(
                row["id"],
                task_of(row["task"]),
                row["attempts"],
                datetime.fromtimestamp(row["created"], UTC),
                told(row["traceback"]),
            )
            for row in await self._file.read(lambda run: run(sql.HELD, (limit,)))
        ]

    async def retry_held(self, ids: Collection[int]) -> int:
        """Queue held jobs again; one whose key another job has by now stays held."""
        now = time.time()
        rows = await self._file.write(lambda run: run(sql.retry_held(len(ids)), (now, now, *ids)))
        self._may_be_more = True
        return len(rows)

    async def cancel(self, ids: Collection[int]) -> int:
        """Take jobs out of the queue; the heartbeat of one that runs sees it."""
        now = time.time()

        def take(run: Run) -> int:
            rows = run(sql.cancel(len(ids)), tuple(ids))
            for row in rows:
                run(sql.LOG, (row["id"], row["task"], "canceled", now, None))
            return len(rows)

        return await self._file.write(take)

    async def last_words(self, job_id: int) -> str:
        """Return the last traceback in the job's log."""
        rows = await self._file.read(lambda run: run(sql.LAST_WORDS, (job_id,)))
        return told(rows[0]["traceback"]) if rows else ""


def _insert_all(run: Run, jobs: Sequence[NewJob], at_once: int) -> list[tuple[int | None, bool]]:
    if len(jobs) == 1 or any(job.key for job in jobs):
        return [_insert(run, job) for job in jobs]
    return [
        (row["id"], True)
        for first in range(0, len(jobs), at_once)
        for row in _insert_many(run, jobs[first : first + at_once])
    ]


def _insert_many(run: Run, jobs: Sequence[NewJob]) -> Rows:
    return sorted(
        run(sql.enqueue(len(jobs)), tuple(value for job in jobs for value in _row(job))),
        key=lambda row: row["id"],
    )


def _row(job: NewJob) -> tuple[Any, ...]:
    now = time.time()
    row = (job.task, job.payload, job.priority, job.key, to_json(job.headers).decode())
    return (*row, int(job.delay <= 0), now, now, now, now + job.delay)


def _insert(run: Run, job: NewJob) -> tuple[int | None, bool]:
    rows = run(sql.enqueue(1), _row(job))
    if rows:
        return rows[0]["id"], True
    found = run(sql.BY_KEY, (job.key,))
    return (found[0]["id"] if found else None), False


def _picked(row: Mapping[str, Any]) -> PickedJob:
    def at(seconds: float) -> datetime:
        return datetime.fromtimestamp(seconds, UTC)

    return PickedJob.model_construct(
        id=row["id"],
        priority=row["priority"],
        created=at(row["created"]),
        updated=at(row["updated"]),
        heartbeat=at(row["updated"]),
        execute_after=at(row["start_after"]),
        status="picked",
        entrypoint=row["task"],
        payload=row["payload"],
        attempts=row["attempts"],
        queue_manager_id=None,
        slot=None,
        headers=_headers(row["headers"]),
    )


def _headers(text: str) -> dict[str, Any]:
    """Read headers; what others have written there must not stop the jobs beside it."""
    try:
        headers = from_json(text)
    except ValueError:
        return {}
    return headers if isinstance(headers, dict) else {}


def _runner(connection: Connection) -> Run:
    def run(statement: str, parameters: tuple[Any, ...]) -> Rows:
        result = connection.exec_driver_sql(statement, parameters)
        return [dict(row) for row in result.mappings()] if result.returns_rows else []

    return run
