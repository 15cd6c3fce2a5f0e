"""The wire: what the app's threads put down here is sent by one daemon thread, never by them."""

import json
import os
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

THREAD = "stormproof-prove"
"""The names of all threads of the agent begin so."""

Facts = dict[str, Any]
Command = Callable[[Facts], Any]

_TICK = 0.025
_IDLE_TICK = 0.1
_MOST_WAITING = 20_000
_BATCH = 256
_FLUSH_LIMIT = 0.2


class Wire:
    """One Unix socket to prove: events go out, commands come in, a thread serves both.

    Events before `open` are kept. When more wait than the buffer holds, the oldest are dropped
    and counted; putting an event down never blocks. When the link breaks, `on_break` is called
    and the wire is silent from then on.
    """

    def __init__(self, path: str) -> None:
        self.is_live = True
        self.commands: dict[str, Command] = {}
        self.on_break: list[Callable[[], None]] = []
        self._path = path
        self._socket: socket.socket | None = None
        self._reset()

    def emit(self, kind: str, facts: Facts) -> None:
        """Put an event down, from any thread; it is sent within 25 ms, or 100 after a pause."""
        if self.is_live:
            if len(self._waiting) == _MOST_WAITING:
                self._dropped += 1
            self._waiting.append((time.monotonic(), kind, facts))

    def open(self) -> None:
        """Connect and start the thread; a second call does nothing."""
        if self._socket is not None or not self.is_live:
            return
        try:
            link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            link.settimeout(2.0)
            link.connect(self._path)
            link.setblocking(False)
        except OSError as error:
            self.is_live = False
            sys.stderr.write(f"stormproof prove: the agent cannot reach prove: {error}\n")
            return
        self._pending = _encoded([(time.monotonic(), "hello", {"pid": os.getpid()})])
        self._socket = link
        threading.Thread(target=self._serve, name=f"{THREAD}-wire", daemon=True).start()

    def flush(self, limit: float = _FLUSH_LIMIT) -> None:
        """Send what waits, for at most `limit` seconds: for the last words of a process."""
        give_up_at = time.monotonic() + limit
        while self._socket is not None and self.is_live and self._send_some():
            left = give_up_at - time.monotonic()
            if left <= 0:
                return
            select.select((), (self._socket,), (), left)

    def forked(self) -> None:
        """Forget the parent's socket and events: a child connects on its own if it serves."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._reset()

    def _reset(self) -> None:
        self._waiting: deque[tuple[float, str, Facts]] = deque(maxlen=_MOST_WAITING)
        self._replies: deque[tuple[float, str, Facts]] = deque()
        self._dropped = 0
        self._pending = b""
        self._received = b""
        self._lock = threading.Lock()

    def _serve(self) -> None:
        link = self._socket
        assert link is not None
        poll = select.poll()
        tick = _TICK
        try:
            while self.is_live and self._socket is link:
                poll.register(link, select.POLLIN | (select.POLLOUT if self._pending else 0))
                ready = poll.poll(tick * 1000)
                if any(
                    mask & (select.POLLIN | select.POLLHUP | select.POLLERR) for _, mask in ready
                ):
                    self._receive(link)
                tick = _TICK if self._waiting or self._pending else _IDLE_TICK
                self._send_some()
        except Exception as error:
            if self._socket is link and not isinstance(error, ConnectionError):
                sys.stderr.write(f"stormproof prove: the agent stops: {error!r}\n")
        if self._socket is link:
            self._break(link)

    def _break(self, link: socket.socket) -> None:
        self.is_live = False
        self._waiting.clear()
        for call in self.on_break:
            call()
        link.close()

    def _receive(self, link: socket.socket) -> None:
        received = link.recv(65536)
        if not received:
            raise ConnectionResetError
        *lines, self._received = (self._received + received).split(b"\n")
        for line in lines:
            request = json.loads(line)
            # A thread each: one that takes long must not hold up events and other commands.
            threading.Thread(
                target=self._answer, args=(request,), name=f"{THREAD}-command", daemon=True
            ).start()

    def _answer(self, request: Facts) -> None:
        answer: Facts = {"to": request["id"]}
        try:
            answer["value"] = self.commands[request["command"]](request)
        except Exception as error:
            answer["error"] = repr(error)
        self._replies.append((time.monotonic(), "reply", answer))
        self.flush()

    def _send_some(self) -> bool:
        """Send what the socket takes at once; return whether something is left."""
        link = self._socket
        if link is None or not self._lock.acquire(timeout=_FLUSH_LIMIT):
            return False
        try:
            while True:
                if not self._pending:
                    self._pending = self._next_batch()
                    if not self._pending:
                        return False
                try:
                    sent = link.send(self._pending)
                except BlockingIOError:
                    return True
                self._pending = self._pending[sent:]
        except OSError:
            return False  # the thread that reads finds out as well
        finally:
            self._lock.release()

    def _next_batch(self) -> bytes:
        batch: list[tuple[float, str, Facts]] = []
        replies, waiting = self._replies, self._waiting
        while len(batch) < _BATCH and (replies or waiting):
            # A reply never overtakes what happened before it.
            is_reply = replies and not (waiting and waiting[0][0] <= replies[0][0])
            batch.append((replies if is_reply else waiting).popleft())
        if self._dropped:
            batch.append((time.monotonic(), "dropped", {"count": self._dropped}))
            self._dropped = 0
        return _encoded(batch) if batch else b""


def _encoded(batch: list[tuple[float, str, Facts]]) -> bytes:
    return json.dumps(batch, default=str).encode() + b"\n"
