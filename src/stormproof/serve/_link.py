"""The admin link between a parent and its worker: a question, and a snapshot for an answer."""

import socket
import threading
import time

from ._snapshot import Observer, WorkerSnapshot

_ANSWER_TIME = 1.0
"""Seconds a worker gets to answer; its thread needs some milliseconds, even with a stuck loop."""

_BRIEF, _FULL = b"s", b"o"


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

    def ask(self, *, with_open: bool = False) -> WorkerSnapshot:
        """Return the worker's snapshot, or one of phase "silent" when it does not give one.

        Waits at most 1 s.
        """
        with self._lock:
            try:
                self._end.settimeout(_ANSWER_TIME)
                self._end.send(_FULL if with_open else _BRIEF)
                self._unanswered += 1
                line = self._read_last()
                return WorkerSnapshot.from_json(line)
            except (OSError, ValueError):
                return WorkerSnapshot(pid=self._pid, phase="silent")

    def close(self) -> None:
        """Hang up, which ends the worker's thread."""
        self._end.close()

    def _read_last(self) -> bytes:
        """Read until every question is answered: answers that were late are passed over."""
        give_up_at = time.monotonic() + _ANSWER_TIME
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
            while questions := end.recv(64):
                for question in questions:
                    snapshot = observer.snapshot(with_open=question == _FULL[0])
                    end.sendall(snapshot.to_json().encode() + b"\n")
        except OSError:
            return  # the parent is gone
