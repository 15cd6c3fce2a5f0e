"""The admin link between a parent and its worker: a question, and a snapshot for an answer."""

import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace

from ._snapshot import Observer, WorkerSnapshot

_ANSWER_TIME = 1.0
"""Seconds a worker gets to answer; its thread needs some milliseconds, even with a stuck loop."""

_FIRST_ANSWER_TIME = 0.1
"""The same for one that has never answered: it is importing the app, and will for a while."""

_BRIEF, _FULL, _JOBS = b"s", b"o", b"j"


class WorkerLink:
    """The parent's end: asks one worker at a time, from any thread.

    Not the wire of commands: an answer may be long, and is waited for.

    Args:
        end: One end of a socket pair, whose other end the worker's `answer_on` has.
        pid: The worker's process id, for when it does not answer.
    """

    def __init__(self, end: socket.socket, pid: int) -> None:
        self._end = end
        self._pid = pid
        self._lock = threading.Lock()
        self._unread = b""
        self._unanswered = 0
        self._has_answered = False

    def ask(self, *, with_open: bool = False) -> WorkerSnapshot:
        """Return the worker's snapshot, or one of phase "silent" when it does not give one.

        One that has never given one is "starting". Waits at most 1 s.
        """
        with self._lock:
            limit = _ANSWER_TIME if self._has_answered else _FIRST_ANSWER_TIME
            try:
                line = self._exchange(_FULL if with_open else _BRIEF, limit)
                snapshot = WorkerSnapshot.from_json(line)
                self._has_answered = True
                return snapshot
            except (OSError, ValueError):
                phase = "silent" if self._has_answered else "starting"
                return WorkerSnapshot(pid=self._pid, phase=phase)

    def ask_jobs(self, question: bytes) -> bytes | None:
        """Put a question to the worker's jobs; None: it has none, or is silent. At most 1 s."""
        with self._lock:
            try:
                return self._exchange(_JOBS + question + b"\n", _ANSWER_TIME) or None
            except OSError:
                return None

    def _exchange(self, question: bytes, limit: float) -> bytes:
        self._end.settimeout(limit)
        self._end.sendall(question)
        self._unanswered += 1
        return self._read_last(limit)

    def close(self) -> None:
        """Hang up, which ends the worker's thread and an `ask` under way."""
        with suppress(OSError):  # the worker is gone already
            self._end.shutdown(socket.SHUT_RDWR)
        with self._lock:  # never under the feet of one who reads from it
            self._end.close()

    def _read_last(self, limit: float) -> bytes:
        """Read until every question is answered: answers that were late are passed over."""
        give_up_at = time.monotonic() + limit
        line = b""
        while self._unanswered:
            while b"\n" not in self._unread:
                self._end.settimeout(max(0.001, give_up_at - time.monotonic()))
                received = self._end.recv(65536)
                if not received:
                    raise ConnectionError("the worker has hung up")
                self._unread += received
            line, _, self._unread = self._unread.partition(b"\n")
            self._unanswered -= 1
        return line


class Workforce:
    """The workers there are, asked all together; to be used from any thread.

    Called as `Snapshots`, it returns one snapshot for each, and one of phase "gone" with the
    counters of those that have left, as they were when somebody last asked.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._links: dict[int, WorkerLink] = {}
        self._last: dict[int, WorkerSnapshot] = {}
        self._gone = WorkerSnapshot(pid=0, phase="gone")

    def join(self, pid: int, end: socket.socket) -> None:
        """Take in a worker that has been started; `end` is closed when it leaves."""
        with self._lock:
            self._links[pid] = WorkerLink(end, pid)

    def leave(self, pid: int) -> None:
        """Take out a worker that has ended; again: does nothing."""
        with self._lock:
            link = self._links.pop(pid, None)
            last = self._last.pop(pid, None)
            if last is not None:
                self._gone = _sum_of_counters(self._gone, last)
        if link is not None:
            link.close()

    def jobs(self, question: bytes) -> bytes | None:
        """Put a question about jobs to the first worker that answers: all have one database."""
        with self._lock:
            links = list(self._links.values())
        for link in links:
            answer = link.ask_jobs(question)
            if answer is not None:
                return answer
        return None

    def __call__(self, *, with_open: bool) -> list[WorkerSnapshot]:
        """Ask each worker in turn; waits at most 1 s for each."""
        with self._lock:
            links = dict(self._links)
        taken = {pid: link.ask(with_open=with_open) for pid, link in links.items()}
        with self._lock:
            told = {pid: one for pid, one in taken.items() if one.phase != "silent"}
            self._last |= {pid: one for pid, one in told.items() if pid in self._links}
            return [*(one for pid, one in taken.items() if pid in self._links), self._gone]


def _sum_of_counters(first: WorkerSnapshot, second: WorkerSnapshot) -> WorkerSnapshot:
    names = first.responses.keys() | second.responses.keys()
    responses = {
        name: first.responses.get(name, 0) + second.responses.get(name, 0) for name in names
    }
    return replace(first, losses=first.losses + second.losses, responses=responses)


def answer_on(end: socket.socket, observer: Observer) -> threading.Thread:
    """Answer the parent's questions on `end` from a daemon thread, until the parent hangs up."""
    end.setblocking(True)
    thread = threading.Thread(
        target=_answer, args=(end, observer), name="stormproof snapshots", daemon=True
    )
    thread.start()
    return thread


def _answer(end: socket.socket, observer: Observer) -> None:
    with end:
        try:
            unread = b""
            while received := end.recv(4096):
                unread += received
                while unread and (unread[:1] != _JOBS or b"\n" in unread):
                    reply, unread = _reply(unread, observer)
                    end.sendall(reply + b"\n")
        except OSError:
            return  # the parent is gone


def _reply(unread: bytes, observer: Observer) -> tuple[bytes, bytes]:
    """Return the answer to the first question, and what follows it."""
    if unread[:1] == _JOBS:
        question, _, rest = unread[1:].partition(b"\n")
        return observer.jobs(question) or b"", rest
    return observer.snapshot(with_open=unread[:1] == _FULL).to_json().encode(), unread[1:]
