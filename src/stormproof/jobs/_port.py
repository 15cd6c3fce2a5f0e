"""The port: what the engine's loop asks of a repository, made to survive a store that is away."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment
from pgqueuer.domain import models, types
from pgqueuer.ports.repository import EntrypointExecutionParameter

from ._driver import LocalDriver
from ._facts import End, JobState
from ._words import first_line, written

if TYPE_CHECKING:
    from ._store import Store

T = TypeVar("T")

_RETRY_AFTER = 0.5
_LONGEST_PAUSE = 2.0

_log = logging.getLogger("stormproof")


class EnginePort:
    """The part of pgqueuer's `RepositoryPort` that its `QueueManager.run` uses, over a store.

    The engine ends when a query of its loop raises, and waits for all running jobs before it
    says so. Here such a query finds nothing, and the loop is woken again a moment later. The
    end of a job is tried until it is stored.

    Args:
        store: Where the jobs are.
        concurrency: How many jobs this worker may have at once.

    Attributes:
        is_closing: Whether nothing is picked any more, and what fails is not tried again.
        ends: How many jobs have ended in which way.
        handed_back: How many were given back.
    """

    def __init__(self, store: "Store", *, concurrency: int) -> None:
        self.qbe = QueryBuilderEnvironment()
        self.driver = LocalDriver()
        self.is_closing = False
        self.ends: Counter[str] = Counter()
        self.handed_back = 0
        self._store = store
        self._concurrency = concurrency
        self._is_away = False

    async def dequeue(
        self,
        batch_size: int,
        entrypoints: dict[types.QueueEntrypoint, EntrypointExecutionParameter],
        queue_manager_id: types.QueueManagerId,
        global_concurrency_limit: int | None,
        heartbeat_timeout: timedelta,
    ) -> list[models.Job]:
        """Pick up to `batch_size` jobs; of those that run here already only the lease is renewed.

        A pick whose answer is lost leaves jobs that nobody runs: their heartbeat goes stale.
        """
        self.driver.looking()
        if self.is_closing or len(self._store.leases.ids()) >= self._concurrency:
            return []
        limits = {str(name): limit.concurrency_limit for name, limit in entrypoints.items()}
        budget = min(self._concurrency, global_concurrency_limit or self._concurrency)
        nothing: list[models.Job] = []
        picked = await self._unless_away(
            lambda: self._store.claim(
                min(batch_size, budget), limits, budget, heartbeat_timeout.total_seconds()
            ),
            nothing,
        )
        leases = self._store.leases
        return [job for job in picked if leases.take(job.id, job.attempts)]

    async def log_jobs(
        self,
        job_status: list[tuple[models.Job, types.JOB_STATUS, models.TracebackRecord | None]],
    ) -> None:
        """Store how jobs have ended; an end of a job that is not ours any more does not count."""
        leases = self._store.leases
        ends = []
        for job, status, record in job_status:
            if status == "canceled" and job.id not in leases.cancelled:
                # The engine was cancelled, nobody cancelled the job: it must not be lost.
                await self._again(job, 0.0, None, is_counted=False)
                continue
            ends.append(End(job.id, leases.ending(job.id), status, written(record)))
        if ends:
            ours = await self._until_stored(lambda: self._store.finish(ends))
            await self._count(ends, ours | leases.finished)
            leases.give_up(end.job_id for end in ends)
        self.driver.wake()

    async def _count(self, ends: list[End], counted: set[int]) -> None:
        """Count ends; one of a job that was not ours any more was cancelled, or is lost."""
        foreign = [end.job_id for end in ends if end.job_id not in counted]
        if foreign:
            unknown: dict[int, JobState] = {}
            states = await self._unless_away(lambda: self._store.states(foreign), unknown)
            counted |= {job_id for job_id in foreign if states.get(job_id) == "cancelled"}
            self._store.leases.lost += len(set(foreign) - counted)
        self.ends.update(end.status for end in ends if end.job_id in counted)

    async def retry_job(
        self,
        job: models.Job,
        delay: timedelta,
        traceback_record: models.TracebackRecord | None,
    ) -> None:
        """Queue a job again: after `delay` when it failed, at once when it is handed back."""
        leases = self._store.leases
        if job.id in leases.abandoned:
            return
        if job.id in leases.handed_back:
            await self._again(job, 0.0, None, is_counted=False)
        else:
            words = written(traceback_record)
            await self._again(job, delay.total_seconds(), words, is_counted=True)
        self.driver.wake()

    async def _again(
        self, job: models.Job, delay: float, words: str | None, *, is_counted: bool
    ) -> None:
        leases = self._store.leases
        pick, is_finished = leases.ending(job.id), job.id in leases.finished
        try:
            was_ours = await self._until_stored(
                lambda: self._store.again(job.id, pick, delay, words, is_counted=is_counted)
            )
        except Exception as error:
            # Closing. The engine would take this for the failure of the job, and hold it; as it
            # is, it is found like that of a dead process.
            _log.warning("jobs: job %d could not be given back: %s", job.id, first_line(error))
            return
        leases.lost += not (was_ours or is_finished)
        self.handed_back += was_ours and not is_counted
        leases.give_up([job.id])

    async def update_heartbeat(self, job_ids: list[types.JobId]) -> None:
        """Do nothing: the heartbeat comes from a thread, which a blocked loop does not stop."""

    async def aggregate_logs(self) -> None:
        """Let the store tidy up."""
        await self._unless_away(self._store.tidy, None)

    async def queued_work(self, entrypoints: list[types.QueueEntrypoint]) -> int:
        """As `eligible_queued_work`: asked last, for a job that came due between the questions."""
        return await self.eligible_queued_work(entrypoints)

    async def eligible_queued_work(self, entrypoints: list[types.QueueEntrypoint]) -> int:
        """Return 1 when a job could be picked now, had this worker a place for it."""
        if len(self._store.leases.ids()) >= self._concurrency:
            return 0  # the end of a job wakes the loop
        found = self._store.is_due([str(name) for name in entrypoints])
        return int(await self._unless_away(lambda: found, False))

    async def next_deferred_eta(self, entrypoints: list[types.QueueEntrypoint]) -> timedelta | None:
        """Return the time until the next delayed job may start, or None."""
        names = [str(name) for name in entrypoints]
        left = await self._unless_away(lambda: self._store.next_due_in(names), None)
        return None if left is None else timedelta(seconds=max(0.001, left))

    async def notify_health_check(self, health_check_event_id: types.HealthCheckId) -> None:
        """Answer the engine's question whether it hears notices."""
        self.driver.tell(
            models.HealthCheckEvent(
                channel=self.qbe.settings.channel,
                sent_at=models.utc_now(),
                type="health_check_event",
                id=health_check_event_id,
            ).model_dump_json(exclude={"received_at"})
        )

    async def has_table(self, table: str) -> bool:
        """Return True: `install` has looked; the same goes for the four below."""
        return True

    async def table_has_column(self, table: str, column: str) -> bool:
        """Return True."""
        return True

    async def table_has_index(self, table: str, index: str) -> bool:
        """Return True."""
        return True

    async def has_user_defined_enum(self, key: str, enum: str) -> bool:
        """Return True."""
        return True

    async def _unless_away(self, ask: Callable[[], Awaitable[T]], otherwise: T) -> T:
        try:
            answer = await ask()
        except Exception as error:
            self._note_away(error)
            asyncio.get_running_loop().call_later(_RETRY_AFTER, self.driver.wake)
            return otherwise
        self._note_back()
        return answer

    async def _until_stored(self, store: Callable[[], Awaitable[T]]) -> T:
        pause = 0.1
        while True:
            try:
                answer = await store()
            except Exception as error:
                if self.is_closing:
                    raise
                self._note_away(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                self._note_back()
                return answer

    def _note_away(self, error: Exception) -> None:
        if not self._is_away:
            _log.warning("jobs: the store cannot be used: %s; trying again", first_line(error))
        self._is_away = True

    def _note_back(self) -> None:
        if self._is_away:
            _log.info("jobs: the store can be used again")
        self._is_away = False


def as_port(port: EnginePort) -> Any:
    """Return the port as the engine's type, of which its loop uses these methods alone."""
    return port
