"""The network under httpx2's pool: asyncio's own transports, without a layer in between.

httpcore2 reads and writes through anyio: two cancel scopes, two to four passes of the loop and
as many system calls for each request. With the same pool on this a call costs a quarter less
(CPython 3.11, three calls at once on kept connections: 1180 µs against 1530; uvloop 1160
against 1430).
"""

import asyncio
import select
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Self, cast

import httpcore2
import httpx2

from ._addresses import connected

_BUFFERED_BYTES = 256 * 1024


class OwnTransport(httpx2.AsyncHTTPTransport):
    """httpx2's transport, with its pool on this network.

    Args:
        tls: TLS settings.
        max_connections: Connections open at once, and kept.
        on_connected: Called for each connection made.
    """

    def __init__(
        self, *, tls: ssl.SSLContext, max_connections: int, on_connected: Callable[[], None]
    ) -> None:
        super().__init__(verify=tls)
        # httpx2 gives no way to name a network, httpcore2 does. Its own methods stay, so that
        # what instruments them (tracing) finds them.
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=httpx2.Limits().keepalive_expiry,
            network_backend=_Network(on_connected),
        )


class _Network(httpcore2.AsyncNetworkBackend):
    def __init__(self, on_connected: Callable[[], None]) -> None:
        self._on_connected = on_connected

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address of `host` that answers."""
        try:
            async with asyncio.timeout(timeout):
                stream = await connected(_Stream, host, port)
        except TimeoutError as exc:
            raise httpcore2.ConnectTimeout(str(exc)) from exc
        except OSError as exc:
            raise httpcore2.ConnectError(str(exc)) from exc
        self._on_connected()
        return stream


class _Stream(httpcore2.AsyncNetworkStream, asyncio.Protocol):
    """One connection: what came in and was not read, and whether it may be written to."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._poll: Callable[[], bool]
        self._buffer = bytearray()
        self._is_over = False
        self._error: Exception | None = None
        self._arrival: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._poll = _poll(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        _wake(self._arrival)
        if len(self._buffer) > _BUFFERED_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        self._is_over = True
        _wake(self._arrival)

    def connection_lost(self, error: Exception | None) -> None:
        self._is_over = True
        self._error = error
        _wake(self._arrival)
        _wake(self._room)

    def pause_writing(self) -> None:
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        _wake(self._room)
        self._room = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what came, or wait for it; empty at the end."""
        if not self._buffer and not self._is_over:
            self._arrival = asyncio.get_running_loop().create_future()
            await _within(self._arrival, timeout, httpcore2.ReadTimeout)
        if not self._buffer and self._error is not None:
            raise httpcore2.ReadError(str(self._error)) from self._error
        data = bytes(self._buffer[:max_bytes])
        del self._buffer[:max_bytes]
        if self._is_paused and not self._is_over:
            self._is_paused = False
            self._transport.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write `buffer`, or hand it over; waits while the other side does not read."""
        if not buffer:
            return
        if not self._is_over:
            self._transport.write(buffer)
            if self._room is not None:
                await _within(self._room, timeout, httpcore2.WriteTimeout)
        if self._is_over:
            raise httpcore2.WriteError(str(self._error or "the connection is closed"))

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> Self:
        """Shake hands; failed or cancelled, the connection is closed."""
        connected = self._transport
        try:
            async with asyncio.timeout(timeout):
                transport = await asyncio.get_running_loop().start_tls(
                    connected, self, ssl_context, server_hostname=server_hostname
                )
                assert transport is not None  # it is only for a transport that was closed
                self._transport = transport
        except TimeoutError as exc:
            raise httpcore2.ConnectTimeout(str(exc)) from exc
        except OSError as exc:
            raise httpcore2.ConnectError(str(exc) or type(exc).__name__) from exc
        finally:
            if self._transport is connected:
                self.abort()
        return self

    async def aclose(self) -> None:
        """Close at once."""
        self.abort()

    def abort(self) -> None:
        self._is_over = True
        # First a close, which tells the other side by TLS; then no waiting for its answer.
        self._transport.close()
        self._transport.abort()

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore2 asks for."""
        match info:
            case "is_readable":
                return self._is_over or bool(self._buffer) or self._poll()
            case "client_addr":
                return self._transport.get_extra_info("sockname")
            case "server_addr":
                return self._transport.get_extra_info("peername")
            case _:
                return self._transport.get_extra_info(info)


def _wake(waiter: "asyncio.Future[None] | None") -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


async def _within(
    waiter: "asyncio.Future[None]", timeout: float | None, kind: type[Exception]
) -> None:
    if timeout is None:
        return await waiter
    try:
        async with asyncio.timeout(timeout):
            return await waiter
    except TimeoutError as exc:
        raise kind(str(exc)) from exc


def _poll(sock: socket.socket) -> Callable[[], bool]:
    """Return whether `sock` has something to read: what the loop may not have noticed yet."""
    if not hasattr(select, "poll"):
        return lambda: bool(select.select([sock], (), (), 0)[0])
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return lambda: bool(poll.poll(0))
