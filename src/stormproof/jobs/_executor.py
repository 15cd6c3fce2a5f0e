"""The executor: one start of one job, with its timeout, its retries and its end."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from contextvars import copy_context
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pgqueuer.core.executors import AbstractEntrypointExecutor, EntrypointExecutorParameters
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.domain.models import Context
from pgqueuer.domain.models import Job as PickedJob

from stormproof._core.clock import MONOTONIC
from stormproof._core.deadline import Deadline, in_force
from stormproof._core.events import JobFailed
from stormproof.errors import InvalidSetting, JobCrashed, JobTimeout, LeaseLost, PayloadMismatch

from ._job import Job, current
from ._trace import processing

if TYPE_CHECKING:
    from ._task import JobTask
    from ._worker import Worker

_NEVER_AGAIN = (JobCrashed, PayloadMismatch, InvalidSetting)
_CLEAN_UP = 5.0
"""Seconds a job has for its clean-up once it was cancelled or its timeout is over."""


class HandedBack(RetryRequested):
    """The drain gives the job back."""


class JobExecutor(AbstractEntrypointExecutor):
    """Runs the jobs of one task for the engine.

    The engine deletes a job whose run was cancelled: nothing of a cancellation leaves here, but
    for a job that somebody has cancelled.
    """

    def __init__(self, task: "JobTask[Any]", worker: "Worker", limit: int) -> None:
        super().__init__(
            EntrypointExecutorParameters(
                func=task.function,
                concurrency_limit=limit,
                on_failure=task.on_failure,
            )
        )
        self._task = task
        self._worker = worker

    async def execute(self, job: PickedJob, context: Context) -> None:
        """Run one job; what it raises decides what the engine does with it."""
        if self._worker.is_draining:
            self._worker.store.leases.handed_back.add(job.id)
            raise HandedBack(reason="the service shuts down")
        try:
            with processing(self._task.name, job):
                await self._start(job, context)
        except RetryRequested:
            raise
        except _NEVER_AGAIN as error:
            self._tell_failure(job, error)
            raise
        except LeaseLost as error:
            self._worker.note(job.id, "lost its lease", error)
        except Exception as error:
            if job.id in self._worker.store.leases.handed_back:
                raise HandedBack(reason="the service shuts down") from error
            if job.attempts > self._task.retries:
                self._tell_failure(job, error)
                raise
            delay = self._task.pause(job.attempts, random.random())
            self._worker.retried += 1
            raise RetryRequested(timedelta(seconds=delay), reason=repr(error)) from error

    def _tell_failure(self, job: PickedJob, error: Exception) -> None:
        is_held = self._task.on_failure == "hold"
        self._worker.events.emit(
            JobFailed(self._task.name, job.id, repr(error), job.attempts, is_held)
        )

    async def _start(self, job: PickedJob, context: Context) -> None:
        await self._check_starts(job)
        arguments = self._task.arguments.load(job.payload)
        running = Job(
            job.id, self._task.name, job.attempts, job.created,
            self._worker.store, self._worker.outcomes,
        )  # fmt: skip
        inner = asyncio.create_task(
            self._call(running, arguments),
            name=f"job {self._task.name} {job.id}",
            context=copy_context(),
        )
        self._worker.running[job.id] = inner
        try:
            await self._wait_for(inner, job, context)
        finally:
            self._worker.running.pop(job.id, None)
        if running.is_done and await self._is_stored_as_done(inner, job):
            return
        if context.cancellation.cancel_called:
            return
        if job.id in self._worker.store.leases.handed_back and inner.cancelled():
            raise HandedBack(reason="the service shuts down")
        _raise_failure_of(inner)

    async def _is_stored_as_done(self, inner: "asyncio.Task[None]", job: PickedJob) -> bool:
        """Whether the session of `once` has committed; what failed after that is told."""
        store = self._worker.store
        if await store.owns(job.id):
            store.leases.finished.discard(job.id)
            return False
        if inner.done() and not inner.cancelled() and inner.exception() is not None:
            self._worker.note(job.id, "failed after it was done", inner.exception())
        return True

    async def _wait_for(
        self, inner: "asyncio.Task[None]", job: PickedJob, context: Context
    ) -> None:
        """Wait for the job's end, and see to it when the time is over or somebody cancels."""
        try:
            with context.cancellation:
                await asyncio.wait((inner,), timeout=self._task.timeout)
        except asyncio.CancelledError:
            # The engine was stopped by force. A job must not be deleted because of that.
            inner.cancel()
            self._worker.left_behind.add(inner)
            self._worker.store.leases.abandoned.add(job.id)
            raise HandedBack(reason="the worker was stopped") from None
        if inner.done():
            return
        inner.cancel()
        await asyncio.wait((inner,), timeout=_CLEAN_UP)
        if not context.cancellation.cancel_called:
            raise JobTimeout(
                f"job {job.id} ({self._task.name}) was not done within its timeout of "
                f"{self._task.timeout} s; give it longer, or make it do less"
            )

    async def _call(self, job: Job, arguments: dict[str, Any]) -> None:
        current.set(job)
        timeout = self._task.timeout
        deadline = None if timeout is None else Deadline(MONOTONIC.now() + timeout)
        with in_force(deadline), _exit_as_failure():
            async with AsyncExitStack() as stack:
                arguments.update(await self._task.inject(stack))
                arguments.update(dict.fromkeys(self._task.arguments.wants_job, job))
                result = await self._task.function(**arguments)
                if self._task.keep_result:
                    await self._worker.outcomes.keep(job.id, result)

    async def _check_starts(self, job: PickedJob) -> None:
        most = self._task.max_starts
        if job.attempts <= most:
            return
        words = await self._worker.store.last_words(job.id)
        said = (await self._worker.outcomes.of(job.id)).message
        words = f"{said}; {words}" if said else words
        raise JobCrashed(
            f"job {job.id} ({self._task.name}) was started {job.attempts - 1} times, and none of "
            f"its starts has ended; its last words: {words or 'none'}"
        )


@contextmanager
def _exit_as_failure() -> Iterator[None]:
    """Let a job that calls `sys.exit()` fail: asyncio would end the loop, and so the server."""
    try:
        yield
    except SystemExit as error:
        raise RuntimeError(f"it ended by itself with {error!r}") from error


def _raise_failure_of(inner: "asyncio.Task[None]") -> None:
    """Raise what a job has raised, as an Exception: the engine forgets jobs that end otherwise."""
    error = asyncio.CancelledError() if inner.cancelled() else inner.exception()
    if isinstance(error, Exception):
        raise error
    if error is not None:
        raise RuntimeError(f"it ended by itself with {error!r}") from error
