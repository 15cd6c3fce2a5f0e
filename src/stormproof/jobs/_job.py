"""The running job, as its function sees it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from stormproof._core.deadline import remaining
from stormproof.errors import LeaseLost, NotStarted

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ._outcomes import Outcomes
    from ._store import Store


@dataclass(eq=False, slots=True)
class Job:
    """The job that runs: got by a parameter with this type, or from `current_job()`.

    Attributes:
        id: Its number in the store.
        task: The name of its task.
        start: The how-manieth start this is, from 1: a start that ended in a crash counts.
        created_at: When it was enqueued.
        is_done: Whether `once` has ended it already (if its session commits).
    """

    id: int
    task: str
    start: int
    created_at: datetime
    _store: "Store" = field(repr=False)
    _outcomes: "Outcomes" = field(repr=False)
    is_done: bool = False

    @property
    def idempotency_key(self) -> str:
        """The same at each start of this job, and no other's: for services that take such a key.

        The time is in it because ids begin at 1 in each database: of two services with one
        account at a bank, or of one whose database was made anew, the second must not find its
        payment done already.
        """
        return f"{self.task}:{self.id}:{self.created_at.astimezone(UTC):%Y%m%dT%H%M%S.%f}"

    def remaining(self) -> float | None:
        """Return the seconds left of its timeout, or None without one."""
        return remaining()

    async def report(self, fraction: float | None = None, message: str | None = None) -> None:
        """Store how far this job is, for `Jobs.outcome`; should it crash, its last words.

        Waits for a transaction of its own: not inside a session's block on SQLite, where that
        session is the only writer.

        Args:
            fraction: How much is done, from 0 to 1.
            message: What it does now.
        """
        await self._outcomes.report(self.id, fraction, message)

    @asynccontextmanager
    async def once(self, session: "AsyncSession") -> AsyncIterator[None]:
        """Make the block's work in `session` and the end of this job one COMMIT.

        When the session commits, the job is done, so it is never started again: what the block
        changed in the database happens exactly once, whatever crashes and however often the job
        was started. When it does not, nothing happened, and the job is tried again. To be used
        at most once in a job, as its last piece of work: what follows runs at most once.

        Waits for nobody but the database. Meanwhile the job's row is locked, so nobody else
        can take it.

        Raises:
            LeaseLost: Somebody else has this job by now. Nothing was done; let it fly.
        """
        if not await self._store.lock_lease(session, self.id):
            raise LeaseLost(
                f"job {self.id} ({self.task}) was given to another worker while this one was not "
                "heard of; nothing was stored here"
            )
        yield
        await self._store.finish_in(session, self.id)
        self.is_done = True


current: ContextVar[Job | None] = ContextVar("stormproof_job", default=None)


def current_job() -> Job:
    """Return the job that runs here; also a dependency: `job: Job = Depends(current_job)`.

    Raises:
        NotStarted: No job runs here.
    """
    job = current.get()
    if job is None:
        raise NotStarted("current_job() was called outside of a job")
    return job
