"""A streaming answer read step by step: raw chunks, server-sent events, and how it ended."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from .client import Connection, encode_request
from .wire import AnswerReader, Ended


@dataclass(frozen=True, slots=True)
class Event:
    """One block of a server-sent event stream; a field the server did not send is None.

    A block that holds only a comment (a keep-alive) is an event here, too.
    """

    event: str | None = None
    data: str | None = None
    id: str | None = None
    retry: int | None = None
    comment: str | None = None


class StreamEnded(EOFError):
    """There is no further event; `ended` says how the stream ended."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(f"the stream has no further event: it ended {ended!r}")
        self.ended: Ended = ended


class Stream:
    """One streaming request to 127.0.0.1; `async with` sends it and reads the head.

    As long as nobody asks for a chunk or an event, it is a stalled reader.

    Attributes:
        events: Every event parsed so far by `next_event` and `finish`.
        ended: How the stream ended, or None while it runs.
    """

    def __init__(
        self,
        port: int,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float = 5.0,
        receive_buffer_bytes: int | None = None,
    ) -> None:
        self.events: list[Event] = []
        self.ended: Ended | None = None
        self._port = port
        self._request = encode_request(
            method, path, headers=headers, body=body, host=f"127.0.0.1:{port}"
        )
        self._timeout = timeout
        self._receive_buffer_bytes = receive_buffer_bytes
        self._reader = AnswerReader(method)
        self._parser = EventParser()
        self._pending: list[Event] = []
        self._first = b""
        self._connection: Connection | None = None

    async def __aenter__(self) -> "Stream":
        """Connect and read the head.

        Raises:
            ConnectionError: Refused, or closed before the whole head came.
            TimeoutError: No whole head within the stream's timeout.
        """
        self._connection = await Connection.open(
            self._port, timeout=self._timeout, receive_buffer_bytes=self._receive_buffer_bytes
        )
        try:
            await self._connection.send(self._request, timeout=self._timeout)
            async with asyncio.timeout(self._timeout):
                while self._reader.head is None and self.ended is None:
                    chunk, self.ended = await self._connection.advance(self._reader)
                    self._first += chunk
            if self._reader.head is None:
                raise ConnectionResetError(f"no head, the connection ended {self.ended!r}")
        except BaseException:
            self._connection.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._opened.close()

    @property
    def status(self) -> int:
        """The status code of the answer."""
        return self._reader.head.status if self._reader.head else 0

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer, by lower-case name."""
        return self._reader.head.headers if self._reader.head else {}

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> bytes:
        """Return the next body bytes; TimeoutError after the stream's timeout without any."""
        async with asyncio.timeout(self._timeout):
            chunk = await self._next_chunk()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def next_event(self, timeout: float = 5.0) -> Event:
        """Wait for the next event, at most `timeout` seconds; cancelled, no event is lost.

        Raises:
            StreamEnded: The stream is over; its `ended` says how.
            TimeoutError: No event came in time.
        """
        async with asyncio.timeout(timeout):
            while not self._pending:
                chunk = await self._next_chunk()
                if not chunk:
                    raise StreamEnded(self.ended or "truncated")
                self._keep(chunk)
        return self._pending.pop(0)

    async def finish(self, timeout: float = 5.0) -> Ended:
        """Read to the end and return how it came; "timed_out" if it did not within `timeout`.

        `complete` means that the final chunk (or all of content-length) arrived. Events on the
        way are in `events`.
        """
        try:
            async with asyncio.timeout(timeout):
                while chunk := await self._next_chunk():
                    self._keep(chunk)
        except TimeoutError:
            return "timed_out"
        return self.ended or "truncated"

    def abort(self) -> None:
        """Leave abruptly: the server sees a reset (RST)."""
        self._opened.abort()

    def vanish(self) -> None:
        """Be gone without a word, as `Connection.vanish`."""
        self._opened.vanish()

    @property
    def _opened(self) -> Connection:
        if self._connection is None:
            raise RuntimeError("the stream is not open; use it in `async with`")
        return self._connection

    def _keep(self, chunk: bytes) -> None:
        events = self._parser.feed(chunk)
        self.events += events
        self._pending += events

    async def _next_chunk(self) -> bytes:
        """Return the next body bytes, or nothing once the stream is over."""
        chunk, self._first = self._first, b""
        while not chunk and self.ended is None:
            chunk, self.ended = await self._opened.advance(self._reader)
        return chunk


class EventParser:
    """Server-sent events out of bytes (WHATWG HTML, section 9.2.6); it does no I/O."""

    def __init__(self) -> None:
        self._unread = b""
        self._lines: list[str] = []

    def feed(self, received: bytes) -> list[Event]:
        """Take bytes and return the events they complete."""
        # A "\r" at the very end may be half of "\r\n": it waits for the next byte.
        self._unread += received
        held = b"\r" if self._unread.endswith(b"\r") else b""
        *lines, rest = re.split(rb"\r\n|\n|\r", self._unread.removesuffix(held))
        self._unread = rest + held
        events = []
        for line in lines:
            if line:
                self._lines.append(line.decode())
            elif self._lines:
                events.append(_event(self._lines))
                self._lines = []
        return events


def _event(lines: list[str]) -> Event:
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name or "comment", []).append(value.removeprefix(" "))
    data, comment, retry = fields.get("data"), fields.get("comment"), fields.get("retry")
    return Event(
        event=fields.get("event", [None])[-1],
        data=None if data is None else "\n".join(data),
        id=fields.get("id", [None])[-1],
        retry=None if retry is None else int(retry[-1]),
        comment=None if comment is None else "\n".join(comment),
    )
