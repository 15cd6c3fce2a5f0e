"""Workers: threads that are used again, and end by themselves when there is nothing to do."""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeAlias

IDLE_SECONDS = 0.2
"""How long a worker waits for its next job. Five jobs a second keep it; a new one costs 0.1 ms."""

Job: TypeAlias = Callable[[], Callable[[], None]]
"""What a worker does; what that returns is called when the worker may be given the next one."""


class Workers:
    """As many daemon threads as there are jobs at once; the last one idle is the next to work.

    It bounds nothing: who hands out the jobs does. A job must not raise. A worker that does not
    end does not keep the process alive.

    Args:
        name: What the threads are called.
    """

    __slots__ = ("_idle", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        # Taken from by the loop and by workers that end: each step is one call of the list's.
        self._idle: list[_Worker] = []

    def start(self, job: Job) -> threading.Thread:
        """Let a worker do `job`, and return its thread; raises RuntimeError when none can start."""
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker(self._idle, self._name)
            worker.jobs.put(job)
            worker.start()
        else:
            worker.jobs.put(job)
        return worker

    def dismiss(self) -> None:
        """Let the idle ones end now; those at work end when they have been idle."""
        while True:
            try:
                self._idle.pop().jobs.put(None)
            except IndexError:
                return


class _Worker(threading.Thread):
    def __init__(self, idle: "list[_Worker]", name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._idle = idle
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()

    def run(self) -> None:
        while (job := self._next()) is not None:
            tell = job()
            # Before it is told: whoever has its place then finds this worker, and starts none.
            self._idle.append(self)
            tell()
            del job, tell  # what they hold is not kept while idle

    def _next(self) -> Job | None:
        try:
            return self.jobs.get(timeout=IDLE_SECONDS)
        except Empty:
            pass
        try:
            self._idle.remove(self)
        except ValueError:
            return self.jobs.get()  # chosen in the same moment: the job is on its way
        return None
