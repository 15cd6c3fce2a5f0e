"""Leases: which jobs this worker has, and by which pick, so that only that pick can end them."""

import threading
import uuid
from collections.abc import Iterable


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
        self._picks: dict[int, int] = {}
        self._lock = threading.Lock()

    def take(self, job_id: int, pick: int) -> bool:
        """Note a pick; return False when the job runs here already: its lease was renewed."""
        with self._lock:
            is_new = job_id not in self._picks
            self._picks[job_id] = pick
        return is_new

    def pick_of(self, job_id: int) -> int:
        """Return by which pick the job is ours, or -1."""
        return self._picks.get(job_id, -1)

    def give_up(self, ids: Iterable[int]) -> None:
        """Forget jobs: their end is stored, or somebody else has them."""
        with self._lock:
            for job_id in ids:
                self._picks.pop(job_id, None)
                self.cancelled.discard(job_id)
                self.handed_back.discard(job_id)
                self.finished.discard(job_id)

    def ids(self) -> list[int]:
        """Return the jobs we have now; from any thread."""
        with self._lock:
            return list(self._picks)
