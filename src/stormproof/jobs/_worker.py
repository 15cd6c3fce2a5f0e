"""The worker: runs the engine's loop over a store, keeps its leases, and ends it at a drain."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pgqueuer.core.qm import QueueManager
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.domain.models import TracebackRecord
from pgqueuer.domain.types import QueueManagerId

from stormproof._core.clock import MONOTONIC
from stormproof._core.events import Events

from ._executor import JobExecutor
from ._facts import JobsStatistics
from ._outcomes import Outcomes
from ._port import EnginePort, as_port
from ._process import described, is_dead, this_process

if TYPE_CHECKING:
    from ._store import Store
    from ._task import JobTask

_REAP_EVERY = 1.0
_SIGN_EVERY = 60.0
_RESTART_AFTER = 1.0
_TIDY_EVERY = 30.0
_CLEAN_UP = 2.0
_LAST_MOMENT = 1.0

_log = logging.getLogger("stormproof")


class Worker:
    """Runs jobs in this process.

    Args:
        store: Where they are.
        tasks: What can be run, by name; more may come later.
        concurrency: How many at once.
        poll: Seconds between two looks when nobody said that there is something.
        stale_after: Seconds without a heartbeat after which a job is taken from its worker.
        outcomes: Where what jobs say of themselves goes.
        events: Where failures are told.
        services: What runs beside it until the drain.

    Attributes:
        running: The job's task of each job that runs here.
        left_behind: The tasks of jobs that were cut when the worker was stopped by force.
        is_draining: Whether no job is started any more.
    """

    def __init__(
        self,
        store: "Store",
        tasks: "Mapping[str, JobTask[Any]]",
        *,
        concurrency: int,
        poll: float,
        stale_after: float,
        outcomes: Outcomes,
        events: Events,
        services: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
    ) -> None:
        self.store = store
        self.outcomes = outcomes
        self.events = events
        self._services = services
        self.running: dict[int, asyncio.Task[None]] = {}
        self.left_behind: set[asyncio.Task[None]] = set()
        self.is_draining = False
        self.retried = self.reaped = 0
        self._tasks = tasks
        self._concurrency = concurrency
        self._poll = poll
        self._stale_after = stale_after
        self._port = EnginePort(store, concurrency=concurrency)
        self._engine = self._new_engine()
        self._loop = asyncio.get_running_loop()
        self._beat = store.beat(self.wake_from_thread, self._cancel_from_thread)
        self._thread = threading.Thread(target=self._beat.run, name="jobs heartbeat", daemon=True)
        self._work: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take the jobs of dead processes back, and begin to run what is queued."""
        await self.store.sign_on(str(self.store.leases.worker), this_process())
        await self._reap()
        await self.store.open(self.wake, self.cancel)
        self._thread.start()
        self._work = [
            asyncio.create_task(self._run(), name="jobs worker"),
            asyncio.create_task(self._keep(), name="jobs keeper"),
            *(asyncio.create_task(service(), name="jobs cron") for service in self._services),
        ]

    def wake(self) -> None:
        """Look for jobs now."""
        self._port.driver.wake()

    def wake_from_thread(self) -> None:
        """Look for jobs as soon as the loop gets to it; from any thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self.wake)

    def cancel(self, job_id: int) -> None:
        """Cancel the job if it runs here: somebody took it out of the queue."""
        context = self._engine.job_context.get(job_id)  # type: ignore[call-overload]
        if context is not None and job_id not in self.store.leases.finished:
            self.store.leases.cancelled.add(job_id)
            context.cancellation.cancel()

    def statistics(self) -> JobsStatistics:
        """Return the counts of this moment."""
        ends = self._port.ends
        return JobsStatistics(
            running=len(self.running),
            done=ends["successful"],
            retried=self.retried,
            held=ends["failed"],
            failed=ends["exception"],
            cancelled=ends["canceled"],
            handed_back=self._port.handed_back,
            lost_leases=self.store.leases.lost,
            reaped=self.reaped,
        )

    def note(self, job_id: int, what: str, error: BaseException | None) -> None:
        """Log what becomes of a start that changes nothing any more."""
        _log.error("job %d %s: %s", job_id, what, error, exc_info=error)

    async def drain(self, until: float) -> None:
        """Start nothing more, let the running jobs end in time, and give the others back.

        The last quarter of the time, at most 2 s, is for the clean-up of those, and for giving
        them back. Returns by `until` at the latest, or a moment later.
        """
        self.is_draining = True
        self._engine.shutdown.set()
        left = max(0.0, until - MONOTONIC.now())
        if self.running:
            await asyncio.wait(self.running.values(), timeout=left - min(_CLEAN_UP, left / 4))
        for job_id, task in list(self.running.items()):
            self.store.leases.handed_back.add(job_id)
            task.cancel()
        await self._end(max(0.1, until - MONOTONIC.now()))

    async def stop(self) -> None:
        """Give what runs back, unless a drain has ended it, and every connection."""
        if not self.is_draining:
            await self.drain(MONOTONIC.now() + _CLEAN_UP)
        self._port.is_closing = True
        await self._end(0.1)  # the drain may have been cut
        if self.left_behind:
            await asyncio.wait(self.left_behind, timeout=_LAST_MOMENT)
        if self._thread.ident is not None:
            self._beat.stop()
            await asyncio.to_thread(self._thread.join)
        if self.store.leases.ids():
            _log.warning(
                "jobs: %d jobs would not end; they are started elsewhere once this process is gone",
                len(self.store.leases.ids()),
            )
        else:
            with suppress(Exception):
                async with asyncio.timeout(_LAST_MOMENT):
                    await self.store.sign_off(str(self.store.leases.worker))
        await self.store.close()

    async def _end(self, seconds: float) -> None:
        """End the engine's loop, by force after `seconds`, and what runs beside it."""
        if not self._work:
            return
        engine, *others = self._work
        for other in others:
            other.cancel()
        if not engine.done():
            await asyncio.wait((engine,), timeout=seconds)
        if not engine.done():
            self._port.is_closing = True
            engine.cancel()
        await asyncio.wait(self._work, timeout=_LAST_MOMENT)

    async def _run(self) -> None:
        """Run the engine's loop; begin again should it ever fail."""
        while not self._engine.shutdown.is_set():
            batch = max(1, self._concurrency // 2)
            try:
                await self._engine.run(
                    dequeue_timeout=timedelta(seconds=self._poll),
                    batch_size=batch,
                    max_concurrent_tasks=max(2 * batch, self._concurrency),
                    heartbeat_timeout=timedelta(seconds=self._stale_after),
                    log_aggregation_interval=timedelta(seconds=_TIDY_EVERY),
                )
            except Exception:
                _log.exception("jobs: the engine failed; it is started again")
                await asyncio.sleep(_RESTART_AFTER)
                self._engine = self._new_engine()

    async def _keep(self) -> None:
        """Sign on now and then, and take the jobs of processes that have died."""
        signed_at = MONOTONIC.now()
        while True:
            await asyncio.sleep(_REAP_EVERY)
            with suppress(Exception):  # the store is away, which the port says
                await self._reap()
                if MONOTONIC.now() - signed_at >= _SIGN_EVERY:
                    await self.store.sign_on(str(self.store.leases.worker), this_process())
                    signed_at = MONOTONIC.now()

    async def _reap(self) -> None:
        for worker, process in (await self.store.workers()).items():
            if is_dead(process):
                self.reaped += await self.store.reap(worker, _last_words(process))
                self.wake()

    def _new_engine(self) -> QueueManager:
        engine = QueueManager(as_port(self._port))
        engine.queue_manager_id = QueueManagerId(self.store.leases.worker)
        for task in self._tasks.values():
            for line, limit in task.lines().items():
                engine.register_executor(line, JobExecutor(task, self, limit))
        return engine

    def _cancel_from_thread(self, job_id: int) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.cancel, job_id)


def _last_words(process: str) -> str:
    """Return the log entry for a job whose process has died."""
    died = RetryRequested(reason=f"{described(process)} died in the middle of it")
    record = TracebackRecord.from_exception(died, job_id=0)  # type: ignore[arg-type]
    return record.model_copy(update={"traceback": str(died)}).model_dump_json()
