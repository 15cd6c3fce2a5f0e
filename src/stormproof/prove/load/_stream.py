"""A reader of one answer of any length, with a note of when each piece came and how it ended."""

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType

from stormproof.prove._recording import Ended, Request

from ._ask import closed, opened_for, row_of
from ._connection import Connection
from ._exchange import Exchange
from ._ledger import Ledger
from ._shot import Shot
from ._sse import EventParser, StreamEvent

_MOST_BODY_BYTES = 8_000_000
_SAME_PIECE = 0.001


class StreamReader:
    """One request and its answer, read all the time; `async with` sends it.

    Attributes:
        chunks: When the body's pieces came, and how many bytes each; those within a millisecond
            are one.
        events: Of an event stream, the blocks so far.
        body: The first 8 MB of the body.
    """

    def __init__(
        self, port: int, shot: Shot, *, ledger: Ledger, group: str, timeout: float = 5.0
    ) -> None:
        self.chunks: list[tuple[float, int]] = []
        self.events: list[StreamEvent] = []
        self.body = bytearray()
        self._port = port
        self._shot = shot
        self._ledger = ledger
        self._group = group
        self._timeout = timeout
        self._parser = EventParser()
        self._connection: Connection | None = None
        self._exchange: Exchange | None = None
        self._news = asyncio.Event()

    async def __aenter__(self) -> "StreamReader":
        """Connect, within `timeout` seconds, and send; `ended` says when that failed."""
        exchange = self._exchange = Exchange(
            self._ledger,
            self._shot,
            group=self._group,
            intended_at=self._ledger.now(),
            timeout=self._timeout,
            on_end=lambda _: self._news.set(),
            on_first_byte=self._news.set,
            sink=self._take,
        )
        self._connection = await opened_for(exchange, self._port)
        if self._connection is not None:
            self._connection.send(exchange)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection; an answer that goes on is `left`."""
        if self._connection is not None:
            self._connection.end("left")
            await closed(self._connection)

    @property
    def status(self) -> int:
        """Of the answer; 0 until its head has come."""
        return self._connection.answer.status if self._connection else 0

    @property
    def headers(self) -> Mapping[str, str]:
        """Those of the answer that audits read, by lower-case name."""
        return self._connection.answer.headers if self._connection else {}

    @property
    def ended(self) -> Ended | None:
        """How the answer ended; None while it goes on."""
        return self._exchange.row.ended if self._exchange and self._exchange.row else None

    @property
    def ended_at(self) -> float | None:
        """When it ended."""
        return self._exchange.row.last_byte_at if self._exchange and self._exchange.row else None

    @property
    def has_final_chunk(self) -> bool:
        """Whether the framing was closed: the last chunk came, or all of Content-Length."""
        return self._connection is not None and self._connection.answer.has_final_chunk

    @property
    def last_event(self) -> str:
        """Name of the last event that was no comment; "" where there was none."""
        return next((each.event for each in reversed(self.events) if not each.is_comment), "")

    @property
    def retry_ms(self) -> int | None:
        """The last `retry:` of the event stream, in milliseconds."""
        said = (each.retry for each in reversed(self.events) if each.retry is not None)
        return next(said, None)

    async def wait_first_byte(self, timeout: float) -> bool:
        """Wait for the answer's first byte, at most `timeout` seconds; returns whether it came."""
        exchange = self._opened
        await self.until(lambda: exchange.first_byte_at is not None, timeout)
        return exchange.first_byte_at is not None

    async def wait_end(self, timeout: float) -> Ended | None:
        """Read on to the end, at most `timeout` seconds; returns how it came, or None."""
        await self.until(lambda: False, timeout)
        return self.ended

    async def until(self, predicate: Callable[[], bool], timeout: float) -> bool:
        """Read on until `predicate` is true, the answer ends, or `timeout` seconds have passed.

        It is asked whenever something has come. Cancelled, nothing that came is lost.

        Returns:
            What the predicate says at the end.
        """
        exchange = self._opened
        give_up_at = self._ledger.now() + timeout
        while not predicate() and exchange.row is None:
            self._news.clear()
            try:
                async with asyncio.timeout(give_up_at - self._ledger.now()):
                    await self._news.wait()
            except TimeoutError:
                break
        return predicate()

    def request(self) -> Request:
        """Return the row of the ledger; there is one from the answer's end on, or the exit."""
        if self._opened.row is None:
            raise RuntimeError("the answer goes on; its row is written when it ends")
        return row_of(self._opened)

    @property
    def _opened(self) -> Exchange:
        if self._exchange is None:
            raise RuntimeError("the reader is not open; use it in `async with`")
        return self._exchange

    def _take(self, received: bytes) -> None:
        now = self._ledger.now()
        if self.chunks and now - self.chunks[-1][0] < _SAME_PIECE:
            at, size = self.chunks[-1]
            self.chunks[-1] = (at, size + len(received))
        else:
            self.chunks.append((now, len(received)))
        if len(self.body) < _MOST_BODY_BYTES:
            self.body += received[: _MOST_BODY_BYTES - len(self.body)]
        if "event-stream" in self.headers.get("content-type", ""):
            self.events += self._parser.feed(received, at=now)
        self._news.set()
