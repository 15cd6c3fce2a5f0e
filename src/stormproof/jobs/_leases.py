"""Leases: which jobs this worker has, and by which pick, so that only that pick can end them."""

import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass


class Leases:
    """The jobs of one worker; the heartbeat's thread reads them too.

    Attributes:
        worker: The id of this worker.
        cancelled: Jobs that somebody asked to cancel while they ran here.
        handed_back: Jobs that are to be given back instead of being retried.
        finished: Jobs whose end is in a session of their own (`Job.once`).
        abandoned: Jobs that would not end at the drain; they are left to whoever finds us dead.
        lost: How many ends did not count because the job was not ours any more.
    """

    def __init__(self) -> None:
        self.worker = uuid.uuid4()
        self.cancelled: set[int] = set()
        self.handed_back: set[int] = set()
        self.finished: set[int] = set()
        self.abandoned: set[int] = set()
        self.lost = 0
        self._held: dict[int, _Lease] = {}
        self._lock = threading.Lock()

    def take(self, job_id: int, pick: int) -> bool:
        """Note a pick; return False when the job runs here already: its lease was renewed."""
        with self._lock:
            lease = self._held.get(job_id)
            if lease is not None and not lease.is_ending:
                lease.pick = pick
                return False
            # One that ends may be picked again before we hear that its end is stored.
            self._forget(job_id)
            self._held[job_id] = _Lease(pick)
        return True

    def ending(self, job_id: int) -> int:
        """Note that the run of a job is over and its end is about to be stored; return its pick."""
        with self._lock:
            lease = self._held.get(job_id)
            if lease is None:
                return -1
            lease.is_ending = True
            return lease.pick

    def pick_of(self, job_id: int) -> int:
        """Return by which pick the job is ours, or -1."""
        lease = self._held.get(job_id)
        return -1 if lease is None else lease.pick

    def give_up(self, ids: Iterable[int]) -> None:
        """Forget those jobs whose run is over: their end is stored, or somebody else has them."""
        with self._lock:
            for job_id in ids:
                lease = self._held.get(job_id)
                if lease is not None and lease.is_ending:
                    self._forget(job_id)

    def ids(self) -> list[int]:
        """Return the jobs we have now; from any thread."""
        with self._lock:
            return list(self._held)

    def _forget(self, job_id: int) -> None:
        self._held.pop(job_id, None)
        for noted in (self.cancelled, self.handed_back, self.finished):
            noted.discard(job_id)


@dataclass(slots=True)
class _Lease:
    pick: int
    is_ending: bool = False
