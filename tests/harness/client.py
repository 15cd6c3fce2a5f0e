"""A raw HTTP/1.1 client that tells how each answer ended and reads only when it is asked to."""

import asyncio
import ctypes
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType

from .wire import AnswerReader, Ended, Head

_HOST = "127.0.0.1"
_SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>; `socket` has no name for it


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request.

    Attributes:
        status: The status code; 0 when no whole head arrived.
        headers: By lower-case name; repeated values are joined by ", ".
        body: The decoded body, as far as it arrived.
        ended: `complete` only when the framing was closed (all of content-length, or the final
            chunk); `truncated` when the server closed early, also before the first byte.
        elapsed: Seconds from the start of the request (connecting included) to the end.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    ended: Ended
    elapsed: float


async def request(
    port: int,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout: float = 5.0,
    connection: "Connection | None" = None,
) -> Answer:
    """Send one request to 127.0.0.1 and return its answer; a failure is an answer, too.

    Without `connection` a new one is opened and closed again; with it, `port` is not used.
    `timeout` spans connecting, sending and reading, in seconds.
    """
    if connection is not None:
        return await connection.request(method, path, headers=headers, body=body, timeout=timeout)
    started_at = time.monotonic()
    try:
        connection = await Connection.open(port, timeout=timeout)
    except ConnectionRefusedError:
        return _unanswered("refused", started_at)
    except ConnectionError:
        return _unanswered("reset", started_at)
    except TimeoutError:
        return _unanswered("timed_out", started_at)
    async with connection:
        connected_after = time.monotonic() - started_at
        answer = await connection.request(
            method, path, headers=headers, body=body, timeout=max(0.0, timeout - connected_after)
        )
    return replace(answer, elapsed=answer.elapsed + connected_after)


def encode_request(
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    host: str = _HOST,
) -> bytes:
    """Return the bytes of a request; slice them to send half a request."""
    fields = {"host": host, **{name.lower(): value for name, value in (headers or {}).items()}}
    if body is not None and "transfer-encoding" not in fields:
        fields.setdefault("content-length", str(len(body)))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def drop_all_that_comes(end: socket.socket) -> None:
    """Have the kernel drop every packet that comes for this one socket.

    A classic BPF program that returns 0: who sends to it gets neither an ACK nor a reset, and it
    hears nothing. Most kernels let anybody do that; some want CAP_NET_ADMIN.
    """
    # One instruction, `BPF_RET | BPF_K` with 0; then how many there are, and where.
    code = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(code))
    end.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


class Connection:
    """One TCP connection to 127.0.0.1, for one task at a time; `async with` closes it.

    Nothing is read in the background: as long as nobody calls a reading method, this client is
    a stalled reader, and only the kernel's buffers fill up.
    """

    def __init__(self, connected: socket.socket, port: int) -> None:
        self._socket = connected
        self._host = f"{_HOST}:{port}"
        self._unread = b""
        self._readable: asyncio.Future[None] | None = None

    @classmethod
    async def open(
        cls, port: int, *, timeout: float = 5.0, receive_buffer_bytes: int | None = None
    ) -> "Connection":
        """Connect within `timeout` seconds; cancelled or failed, no socket is left.

        Args:
            port: The server's port on 127.0.0.1.
            timeout: Seconds until TimeoutError.
            receive_buffer_bytes: The kernel's receive buffer, small for a stalled reader
                (Linux doubles it and keeps at least about 2 kB).
        """
        connecting = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            connecting.setblocking(False)
            connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_buffer_bytes is not None:
                connecting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().sock_connect(connecting, (_HOST, port))
        except BaseException:
            connecting.close()
            raise
        return cls(connecting, port)

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float = 5.0,
    ) -> Answer:
        """Send one request and read its answer; the connection stays open for the next one."""
        started_at = time.monotonic()
        raw = encode_request(method, path, headers=headers, body=body, host=self._host)
        is_sent = True
        try:
            await self.send(raw, timeout=timeout)
        except ConnectionError:
            is_sent = False  # the answer may be there all the same: 413 and close
        except TimeoutError:
            return _unanswered("timed_out", started_at)
        left = max(0.0, timeout - (time.monotonic() - started_at))
        answer = await self.read_answer(method, timeout=left)
        # A send that failed has used up the socket's error, so the read only sees the end.
        ended = "reset" if answer.ended == "truncated" and not is_sent else answer.ended
        return replace(answer, ended=ended, elapsed=time.monotonic() - started_at)

    async def send(self, raw: bytes, *, timeout: float = 5.0) -> None:
        """Send raw bytes: a whole request, half of one, or nonsense.

        Raises:
            ConnectionError: The server is gone.
            TimeoutError: The server did not take the bytes; how many it took is unknown.
        """
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_sendall(self._socket, raw)

    async def read_answer(self, method: str = "GET", *, timeout: float = 5.0) -> Answer:
        """Read one answer to a request of `method` that was sent before."""
        started_at = time.monotonic()
        reader = AnswerReader(method)
        body = bytearray()
        ended: Ended | None = None
        try:
            async with asyncio.timeout(timeout):
                while ended is None:
                    chunk, ended = await self.advance(reader)
                    body += chunk
        except TimeoutError:
            ended = "timed_out"
        head = reader.head or Head(0, {})
        elapsed = time.monotonic() - started_at
        return Answer(head.status, head.headers, bytes(body), ended, elapsed)

    async def advance(self, reader: AnswerReader) -> tuple[bytes, Ended | None]:
        """Feed `reader` with the next bytes; returns decoded body bytes, and the end if it came.

        Cancelled while waiting: no byte is lost.
        """
        received, self._unread = self._unread, b""
        if not received:
            try:
                received = await self._receive()
            except ConnectionError:
                return b"", "reset"
            if not received:
                return b"", reader.end_of_input()
        chunk = reader.feed(received)
        if not reader.is_complete:
            return chunk, None
        self._unread = reader.leftover
        return chunk, "complete"

    def is_closed_by_server(self) -> bool:
        """Return whether the server has closed or reset this (idle) connection, without waiting."""
        try:
            return self._socket.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    def close(self) -> None:
        """Close politely (FIN; the kernel makes it RST if received bytes were not read)."""
        if self._is_closed():
            return
        if self._readable is not None:
            self._readable.get_loop().remove_reader(self._socket.fileno())
            if not self._readable.done():
                self._readable.set_result(None)
        self._socket.close()

    def abort(self) -> None:
        """Leave abruptly: the server sees a reset (RST), not an end."""
        if not self._is_closed():
            linger_for_zero_seconds = struct.pack("ii", 1, 0)
            with suppress(OSError):
                self._socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger_for_zero_seconds
                )
        self.close()

    def vanish(self) -> None:
        """Be a machine that lost its power: nothing is acknowledged any more, or answered."""
        drop_all_that_comes(self._socket)

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _is_closed(self) -> bool:
        return self._socket.fileno() < 0

    async def _receive(self) -> bytes:
        # Not loop.sock_recv: cancelled at the wrong tick, it drops the bytes it has just read.
        while True:
            await self._until_readable()
            if self._is_closed():
                raise ConnectionAbortedError("this side closed the connection")
            with suppress(BlockingIOError):
                return self._socket.recv(65536)

    async def _until_readable(self) -> None:
        if self._is_closed():
            return
        loop = asyncio.get_running_loop()
        readable = self._readable = loop.create_future()
        loop.add_reader(self._socket.fileno(), _wake, readable)
        try:
            await readable
        finally:
            self._readable = None
            if not self._is_closed():
                loop.remove_reader(self._socket.fileno())


def _unanswered(ended: Ended, started_at: float) -> Answer:
    return Answer(0, {}, b"", ended, time.monotonic() - started_at)


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
