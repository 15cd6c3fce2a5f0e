"""The wire between a parent and its worker: a socket pair, one JSON object on each line."""

import json
import socket
from contextlib import suppress
from typing import Any


class Wire:
    """One end of the pair; nothing it does waits, except `receive` on a blocking socket.

    Worker to parent: "beat", "ready" (grace), "draining" (grace), "failed" (cause, message),
    "ended" (lost). Parent to worker: "drain" (prestop), "retire", "force".
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._unread = b""

    def fileno(self) -> int:
        """Return the descriptor, to be watched by a selector."""
        return self._end.fileno()

    def tell(self, what: str, **details: Any) -> None:
        """Send a message; one that the other side does not take at once is dropped."""
        line = json.dumps({"what": what, **details}).encode() + b"\n"
        with suppress(OSError):  # BlockingIOError: it does not read; else: it is gone
            self._end.send(line, socket.MSG_DONTWAIT)

    def receive(self) -> list[dict[str, Any]] | None:
        """Return the messages of one read, or None when the other side is gone."""
        try:
            received = self._end.recv(65536)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not received:
            return None
        *lines, self._unread = (self._unread + received).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Hang up."""
        self._end.close()
