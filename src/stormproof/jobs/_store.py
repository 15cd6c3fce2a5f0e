"""The store: what the worker needs of a database beyond the engine's own port."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

from pgqueuer.domain.models import Job as PickedJob

from ._facts import End, HeldJob, JobState, NewJob
from ._leases import Leases

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session


class JobsDatabase(Protocol):
    """What `Jobs` asks of a database; `stormproof.Database` is one."""

    @property
    def engine(self) -> "AsyncEngine":
        """SQLAlchemy's engine."""
        ...

    def session(self) -> AbstractAsyncContextManager["AsyncSession"]:
        """Return one unit of work: committed when the block ends, undone when it raises."""
        ...


class Beat(Protocol):
    """What the heartbeat's thread does, with connections of its own."""

    def run(self) -> None:
        """Beat until `stop`; called in the thread, and never raises."""
        ...

    def stop(self) -> None:
        """End `run` soon; from any thread."""
        ...


class Store(ABC):
    """Where jobs are kept.

    Attributes:
        leases: The jobs this worker has at the moment.
    """

    def __init__(self) -> None:
        self.leases = Leases()

    @abstractmethod
    async def install(self) -> None:
        """Create the tables that are missing; many processes may do it at once."""

    @abstractmethod
    async def open(self, wake: Callable[[], None], cancel: Callable[[int], None]) -> None:
        """Begin to listen: `wake()` when there may be something to pick, `cancel(id)` of a job."""

    @abstractmethod
    async def close(self) -> None:
        """Give every connection back."""

    @abstractmethod
    async def enqueue(self, session: Any, jobs: Sequence[NewJob]) -> list[tuple[int | None, bool]]:
        """Store `jobs` in the session's transaction; return for each its id and if it is new."""

    @abstractmethod
    def enqueue_sync(
        self, session: "Session", jobs: Sequence[NewJob]
    ) -> list[tuple[int | None, bool]]:
        """As `enqueue`, in a thread, with a session that is used in it."""

    @abstractmethod
    async def lock_lease(self, session: Any, job_id: int) -> bool:
        """Whether the job is still ours; it is locked until the session's transaction ends."""

    @abstractmethod
    async def owns(self, job_id: int) -> bool:
        """Whether the job is still ours, at this moment."""

    @abstractmethod
    async def finish_in(self, session: Any, job_id: int) -> None:
        """End a job as done, in the session's transaction."""

    @abstractmethod
    def beat(self, wake: Callable[[], None], cancel: Callable[[int], None]) -> Beat:
        """Return the heartbeat; both functions may be called from its thread."""

    @abstractmethod
    async def sign_on(self, worker: str, process: str) -> None:
        """Note that this worker lives, and in which process."""

    @abstractmethod
    async def sign_off(self, worker: str) -> None:
        """Note that it has ended."""

    @abstractmethod
    async def workers(self) -> dict[str, str]:
        """Return the process of each worker that has not signed off."""

    @abstractmethod
    async def reap(self, worker: str, words: str) -> int:
        """Give the jobs of a dead worker back, with its last words, and sign it off."""

    @abstractmethod
    async def states(self, ids: Collection[int]) -> dict[int, JobState]:
        """Return where the jobs stand; of those that nobody knows, nothing."""

    @abstractmethod
    async def counts(self) -> list[dict[str, Any]]:
        """Return of each task (`of_task`) how many jobs are queued, delayed, running and held.

        `oldest_waiting`: seconds since the longest-waiting queued one could start, or None.
        """

    @abstractmethod
    async def held(self, limit: int) -> list[HeldJob]:
        """Return the held jobs, the latest first."""

    @abstractmethod
    async def retry_held(self, ids: Collection[int]) -> int:
        """Queue held jobs again, with all their starts; return how many there were."""

    @abstractmethod
    async def cancel(self, ids: Collection[int]) -> int:
        """Cancel jobs that wait, are held or run; return how many there were."""

    @abstractmethod
    async def last_words(self, job_id: int) -> str:
        """Return the last traceback in the job's log, or "" without one."""

    @abstractmethod
    async def claim(
        self, most: int, limits: Mapping[str, int], budget: int, stale_after: float
    ) -> list[PickedJob]:
        """Pick jobs for this worker, and count the start of each in its `attempts`.

        Args:
            most: How many at once.
            limits: For each task how many of its jobs may run in all workers; 0: no limit.
            budget: How many this worker may have in all.
            stale_after: Seconds without a heartbeat after which a job is taken from another.
        """

    @abstractmethod
    async def finish(self, ends: Sequence[End]) -> set[int]:
        """Store ends; return the jobs that were ours: the end of another's does not count."""

    @abstractmethod
    async def again(
        self, job_id: int, pick: int, delay: float, words: str | None, *, is_counted: bool
    ) -> bool:
        """Queue our job again, and wake everybody; return whether it was ours.

        Args:
            job_id: The job.
            pick: By which pick it is ours.
            delay: Seconds until it may start.
            words: What its log gets, or None.
            is_counted: Whether the start that ended counts as one.
        """

    @abstractmethod
    async def is_due(self, tasks: Sequence[str]) -> bool:
        """Whether a job of these tasks may start now."""

    @abstractmethod
    async def next_due_in(self, tasks: Sequence[str]) -> float | None:
        """Return the seconds until a delayed job of these tasks may start; None without one."""

    @abstractmethod
    async def tidy(self) -> None:
        """Forget what ended long ago; called now and then while there is work."""
