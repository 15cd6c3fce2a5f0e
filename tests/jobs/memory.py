"""A store of jobs in plain Python: the contract, for the others to be held against.

It has no transaction with its caller: what is enqueued is there at once.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from threading import Event
from time import time
from typing import Any

from pgqueuer.domain.models import Job as PickedJob

from stormproof.jobs._facts import STATES, End, HeldJob, JobState, NewJob, task_of, told
from stormproof.jobs._leases import Leases
from stormproof.jobs._store import Beat, Store


@dataclass
class Row:
    """One job."""

    id: int
    job: NewJob
    due_at: float
    created: datetime
    status: str = "queued"
    attempts: int = 0
    worker: str | None = None
    beat_at: float = 0.0

    def is_due(self) -> bool:
        return self.status == "queued" and self.due_at <= time()


class Table:
    """What the stores of several workers share."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.log: dict[int, list[tuple[str, str | None]]] = {}
        self.workers: dict[str, str] = {}
        self.ids = count(1)
        self.wakes: list[Callable[[], None]] = []

    def tell(self) -> None:
        for wake in self.wakes:
            wake()


class MemoryBeat:
    """Keeps the leases of one worker alive."""

    def __init__(self, table: Table, leases: Leases, every: float) -> None:
        self._table = table
        self._leases = leases
        self._every = every
        self._stop = Event()

    def run(self) -> None:
        while not self._stop.wait(self._every):
            for job_id in self._leases.ids():
                row = self._table.rows.get(job_id)
                if row is not None and row.worker == str(self._leases.worker):
                    row.beat_at = time()

    def stop(self) -> None:
        self._stop.set()


class MemoryStore(Store):
    """Jobs in a dictionary."""

    def __init__(self, table: Table, beat_every: float = 1.0) -> None:
        super().__init__()
        self._table = table
        self._beat_every = beat_every
        self._worker = str(self.leases.worker)
        self._cancel: Callable[[int], None] = lambda _: None

    async def install(self) -> None: ...

    async def open(self, wake: Callable[[], None], cancel: Callable[[int], None]) -> None:
        self._table.wakes.append(wake)
        self._cancel = cancel

    async def close(self) -> None: ...

    async def enqueue(self, session: Any, jobs: Sequence[NewJob]) -> list[tuple[int | None, bool]]:
        return self.enqueue_sync(session, jobs)

    def enqueue_sync(self, session: Any, jobs: Sequence[NewJob]) -> list[tuple[int | None, bool]]:
        stored = [self._insert(job) for job in jobs]
        self._table.tell()
        return stored

    def _insert(self, job: NewJob) -> tuple[int, bool]:
        other = self._with_key(job.key)
        if other is not None:
            return other.id, False
        job_id = next(self._table.ids)
        self._table.rows[job_id] = Row(job_id, job, time() + job.delay, datetime.now(UTC))
        self._note(job_id, "queued")
        return job_id, True

    def _with_key(self, key: str | None) -> Row | None:
        live = (row for row in self._table.rows.values() if row.status in ("queued", "picked"))
        return next((row for row in live if key is not None and row.job.key == key), None)

    def _note(self, job_id: int, status: str, words: str | None = None) -> None:
        self._table.log.setdefault(job_id, []).append((status, words))

    def _ours(self, job_id: int, pick: int) -> Row | None:
        row = self._table.rows.get(job_id)
        lease = None if row is None else (row.status, row.worker, row.attempts)
        return row if lease == ("picked", self._worker, pick) else None

    async def lock_lease(self, session: Any, job_id: int) -> bool:
        return await self.owns(job_id)

    async def owns(self, job_id: int) -> bool:
        return self._ours(job_id, self.leases.pick_of(job_id)) is not None

    async def finish_in(self, session: Any, job_id: int) -> None:
        await self.finish([End(job_id, self.leases.pick_of(job_id), "successful", None)])
        self.leases.finished.add(job_id)

    def beat(self, wake: Callable[[], None], cancel: Callable[[int], None]) -> Beat:
        return MemoryBeat(self._table, self.leases, self._beat_every)

    async def sign_on(self, worker: str, process: str) -> None:
        self._table.workers[worker] = process

    async def sign_off(self, worker: str) -> None:
        self._table.workers.pop(worker, None)

    async def workers(self) -> dict[str, str]:
        return dict(self._table.workers)

    async def reap(self, worker: str, words: str) -> int:
        dead = [r for r in self._table.rows.values() if (r.status, r.worker) == ("picked", worker)]
        for row in dead:
            row.status, row.worker = "queued", None
            self._note(row.id, "queued", words)
        await self.sign_off(worker)
        self._table.tell()
        return len(dead)

    async def states(self, ids: Collection[int]) -> dict[int, JobState]:
        found = {i: self._table.log[i][-1][0] for i in ids if i in self._table.log}
        found |= {i: self._table.rows[i].status for i in ids if i in self._table.rows}
        return {job_id: STATES[status] for job_id, status in found.items()}

    async def counts(self) -> list[dict[str, Any]]:
        counts: dict[str, dict[str, Any]] = {}
        for row in self._table.rows.values():
            task = task_of(row.job.task)
            nothing = dict.fromkeys(("queued", "delayed", "running", "held"), 0)
            of_task = counts.setdefault(task, {"of_task": task, **nothing, "oldest_waiting": None})
            queued = "queued" if row.is_due() else "delayed"
            of_task[{"picked": "running", "failed": "held"}.get(row.status, queued)] += 1
            if row.status == "queued":
                waited = max(0.0, time() - row.due_at)
                of_task["oldest_waiting"] = max(waited, of_task["oldest_waiting"] or 0.0)
        return list(counts.values())

    async def held(self, limit: int) -> list[HeldJob]:
        rows = [row for row in self._table.rows.values() if row.status == "failed"]
        return [
            HeldJob(r.id, task_of(r.job.task), r.attempts, r.created, await self.last_words(r.id))
            for r in rows[:limit]
        ]

    async def retry_held(self, ids: Collection[int]) -> int:
        queued = 0
        for row in [self._table.rows[i] for i in ids if i in self._table.rows]:
            if row.status == "failed" and self._with_key(row.job.key) is None:
                row.status, row.attempts, row.due_at = "queued", 0, time()
                queued += 1
        return queued

    async def cancel(self, ids: Collection[int]) -> int:
        gone = [job_id for job_id in ids if self._table.rows.pop(job_id, None)]
        for job_id in gone:
            self._note(job_id, "canceled")
            self._cancel(job_id)
        return len(gone)

    async def last_words(self, job_id: int) -> str:
        said = [words for _, words in self._table.log.get(job_id, ()) if words is not None]
        return told(said[-1]) if said else ""

    async def claim(
        self, most: int, limits: Mapping[str, int], budget: int, stale_after: float
    ) -> list[PickedJob]:
        rows = self._table.rows.values()
        running = [row for row in rows if row.status == "picked"]
        room = min(most, budget - sum(row.worker == self._worker for row in running))
        of_task = {
            task: limit - sum(row.job.task == task for row in running) if limit else room
            for task, limit in limits.items()
        }
        picked: list[Row] = []
        for row in sorted(rows, key=lambda row: (-row.job.priority, row.id)):
            is_stale = row.status == "picked" and row.beat_at < time() - stale_after
            has_room = is_stale or (row.is_due() and of_task.get(row.job.task, 0) > 0)
            if len(picked) < room and has_room and row.job.task in limits:
                of_task[row.job.task] -= not is_stale
                row.status, row.worker, row.beat_at = "picked", self._worker, time()
                row.attempts += 1
                picked.append(row)
        return [_as_picked(row) for row in picked]

    async def finish(self, ends: Sequence[End]) -> set[int]:
        ours = set()
        for end in ends:
            row = self._ours(end.job_id, end.pick)
            if row is None:
                continue
            ours.add(row.id)
            self._note(row.id, end.status, end.words)
            if end.status == "failed":
                row.status, row.worker = "failed", None
            else:
                del self._table.rows[row.id]
        return ours

    async def again(
        self, job_id: int, pick: int, delay: float, words: str | None, *, is_counted: bool
    ) -> bool:
        row = self._ours(job_id, pick)
        if row is None:
            return False
        row.status, row.worker, row.due_at = "queued", None, time() + delay
        row.attempts -= not is_counted
        self._note(job_id, "queued", words)
        self._table.tell()
        return True

    async def is_due(self, tasks: Sequence[str]) -> bool:
        return any(row.is_due() and row.job.task in tasks for row in self._table.rows.values())

    async def next_due_in(self, tasks: Sequence[str]) -> float | None:
        rows = self._table.rows.values()
        later = [r.due_at - time() for r in rows if r.status == "queued" and not r.is_due()]
        return min(later, default=None)

    async def tidy(self) -> None: ...


def _as_picked(row: Row) -> PickedJob:
    at = datetime.now(UTC)
    return PickedJob.model_construct(
        id=row.id,
        priority=row.job.priority,
        created=row.created,
        updated=at,
        heartbeat=at,
        execute_after=at,
        status="picked",
        entrypoint=row.job.task,
        payload=row.job.payload,
        attempts=row.attempts,
        queue_manager_id=None,
        slot=None,
        headers=row.job.headers,
    )
