"""A client's connection: one exchange at a time on a raw transport, and how each one ended."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from stormproof.prove._recording import Ended

from ._answer import AnswerParser, MalformedAnswer
from ._exchange import Exchange
from ._ledger import Ledger
from ._shot import HOST

_READ_BYTES = 65536


class Connection(asyncio.Protocol):
    """One TCP connection to 127.0.0.1; `connect()` opens it.

    Attributes:
        number: Its number in the ledger.
        answer: What has come of the answer of the present, or else of the last exchange.
        closed_at: When it was closed, by whichever side, in the recording's time.
        is_closed_by_server: Whether the server closed or reset it.
        on_free: Called when its exchange is complete and it can carry another.
        on_lost: Called when it is closed; its exchange has ended by then.
    """

    def __init__(self, ledger: Ledger, connected: socket.socket) -> None:
        self.number = ledger.next_connection()
        self.answer = AnswerParser()
        self.closed_at: float | None = None
        self.is_closed_by_server = False
        self.on_free: Callable[[Connection], None] | None = None
        self.on_lost: Callable[[Connection], None] | None = None
        self.gone = asyncio.get_running_loop().create_future()
        self._ledger = ledger
        self._socket = connected
        self._exchange: Exchange | None = None
        self._has_carried = False
        self._is_closing_after = False
        self._transport: asyncio.Transport

    @property
    def is_open(self) -> bool:
        """Whether it can carry an exchange, or carries one."""
        return self.closed_at is None

    @property
    def is_idle(self) -> bool:
        """Whether it can carry an exchange now."""
        return self.closed_at is None and self._exchange is None

    def send(self, exchange: Exchange, *, close: bool = False, raw: bytes | None = None) -> None:
        """Send the exchange's request; its answer, or the lack of one, ends the exchange.

        Args:
            exchange: What is sent; on a closed connection it ends at once, as `reset`.
            close: Ask for the end of the connection, and close it after the answer.
            raw: These bytes instead of the whole request.
        """
        exchange.connection = self.number
        exchange.is_reused = self._has_carried
        if self.closed_at is not None:
            exchange.end("reset", note="the connection was closed before the request")
            return
        exchange.abandon = self.end
        self._has_carried = True
        self._is_closing_after = close
        self._exchange = exchange
        self.answer.begin(exchange.shot.method, exchange.sink)
        transport = self._transport
        transport.write(exchange.shot.encoded(exchange.id, close=close) if raw is None else raw)
        if not transport.get_write_buffer_size():
            exchange.sent_at = self._ledger.now()

    def end(self, ended: Ended, note: str = "") -> None:
        """End the exchange from this side, and close the connection at once."""
        self.close()
        self._end(ended, note)

    def close(self) -> None:
        """Close at once; an exchange under way is left to `end()`, or becomes `left`."""
        if self.closed_at is None:
            self.closed_at = self._ledger.now()
        self._transport.abort()

    def pause_reading(self) -> None:
        """Stop reading: only the kernel's buffers take more."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    def is_still_established(self) -> bool:
        """Return whether the kernel knows of no end; it sees a reset before the bytes are read."""
        if self.closed_at is not None:
            return False
        with suppress(OSError, AttributeError):
            state = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
            return state == _ESTABLISHED
        return True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        # With no room at all, resume_writing says when the last byte was handed over.
        self._transport.set_write_buffer_limits(high=0)

    def resume_writing(self) -> None:
        if self._exchange is not None and self._exchange.sent_at is None:
            self._exchange.sent_at = self._ledger.now()

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self._lost_by_server()  # nobody asked: it would be read as the next one's answer
            self.close()
            return
        now = self._ledger.now()
        try:
            is_complete = self.answer.feed(data)
        except MalformedAnswer as error:
            exchange.first_byte_at = exchange.first_byte_at or now
            self.end("truncated", str(error))
            return
        if exchange.first_byte_at is None and self.answer.has_begun:
            exchange.first_byte_at = now
            if exchange.on_first_byte is not None:
                exchange.on_first_byte()
        if is_complete:
            self._complete(exchange)

    def eof_received(self) -> None:
        self._lost_by_server()
        if self._exchange is not None:
            if self.answer.end_of_input():
                self._complete(self._exchange)
            else:
                self._break("closed by the server")

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._lost_by_server()
            if self._exchange is not None:
                self._read_the_rest()
            if self._exchange is not None:
                self._break(type(exc).__name__)
        if self.closed_at is None:
            self.closed_at = self._ledger.now()
        self._end("left", "")
        if not self.gone.done():
            self.gone.set_result(None)
        if self.on_lost is not None:
            self.on_lost(self)

    def _complete(self, exchange: Exchange) -> None:
        is_reusable = (
            self.answer.is_kept
            and not self._is_closing_after
            and not self.answer.has_leftover
            and exchange.sent_at is not None  # answered before all of it was sent
            and self.closed_at is None
        )
        if not is_reusable:
            if not self.answer.is_kept:
                self._lost_by_server()
            self.close()
        self._end("complete", "")
        if is_reusable and self.on_free is not None:
            self.on_free(self)

    def _break(self, note: str) -> None:
        self._end("truncated" if self.answer.has_begun else "reset", note)

    def _end(self, ended: Ended, note: str) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end(ended, answer=self.answer, note=note)

    def _lost_by_server(self) -> None:
        if self.closed_at is None:
            self.closed_at = self._ledger.now()
            self.is_closed_by_server = True

    def _read_the_rest(self) -> None:
        # A failed write ends the transport, but the answer (413 and close) may lie in the buffer.
        # The error is used up by now: what looks like an end may be the reset, and is no end.
        with suppress(OSError, MalformedAnswer):
            while self._exchange is not None and (data := self._socket.recv(_READ_BYTES)):
                now = self._ledger.now()
                is_complete = self.answer.feed(data)
                if self._exchange.first_byte_at is None and self.answer.has_begun:
                    self._exchange.first_byte_at = now
                if is_complete:
                    self._end("complete", "")


_ESTABLISHED = 1


async def connect(
    port: int, ledger: Ledger, *, receive_buffer_bytes: int | None = None
) -> Connection:
    """Connect to 127.0.0.1; cancelled or failed, no socket is left.

    Raises:
        OSError: As the kernel says it; ConnectionRefusedError when nobody listens.
    """
    loop = asyncio.get_running_loop()
    connecting = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        if receive_buffer_bytes is not None:
            connecting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        await loop.sock_connect(connecting, (HOST, port))
        if connecting.getsockname() == connecting.getpeername():
            # Where nobody listens on an ephemeral port, TCP can meet itself.
            raise ConnectionRefusedError("connected to itself: nobody listens")
        _, connection = await loop.create_connection(
            lambda: Connection(ledger, connecting), sock=connecting
        )
    except BaseException:
        connecting.close()
        raise
    return connection


def refusal(error: OSError) -> Ended:
    """Return how a request ended whose connection could not be opened."""
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ConnectionError):
        return "reset"
    return "unsent"  # no descriptors or no ports: the generator's own want
