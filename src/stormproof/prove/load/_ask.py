"""Single questions: one request on a connection of its own, or several on one that is kept."""

import asyncio
from collections.abc import Callable
from types import TracebackType

from stormproof.prove._recording import Ended, Request

from ._answer import Sink
from ._connection import Connection, connect, refusal
from ._exchange import Exchange
from ._ledger import Ledger
from ._shot import Shot


async def ask(
    port: int,
    shot: Shot,
    *,
    timeout: float,
    ledger: Ledger,
    group: str,
    keep_alive: bool = False,
    on_first_byte: Callable[[], object] | None = None,
    on_body: Sink | None = None,
) -> Request:
    """Send one request on a connection of its own, and return its row, whatever happened.

    Waits for the end of the answer, at most `timeout` seconds in all. Cancelled, the row says
    `left`. The connection is closed in every case.

    Args:
        port: The server's, on 127.0.0.1.
        shot: What is sent.
        timeout: Seconds, connecting included.
        ledger: Gets the row as well.
        group: Which part it has in the attack.
        keep_alive: Do not ask the server to close the connection after the answer.
        on_first_byte: Called without arguments when the answer's first bytes have come.
        on_body: Called with each piece of the body.
    """
    exchange = Exchange(
        ledger,
        shot,
        group=group,
        intended_at=ledger.now(),
        timeout=timeout,
        on_first_byte=on_first_byte,
        sink=on_body,
    )
    connection = await opened_for(exchange, port)
    if connection is not None:
        try:
            connection.send(exchange, close=not keep_alive)
            await ended(exchange, connection)
        finally:
            await closed(connection)
    return row_of(exchange)


class KeptConnection:
    """One keep-alive connection for several requests; `async with` opens and closes it.

    Attributes:
        number: Of the connection, as in the ledger.
    """

    def __init__(self, port: int, *, ledger: Ledger, group: str, timeout: float = 5.0) -> None:
        self._port = port
        self._ledger = ledger
        self._group = group
        self._timeout = timeout
        self._connection: Connection | None = None

    async def __aenter__(self) -> "KeptConnection":
        """Connect within `timeout` seconds.

        Raises:
            OSError: It could not be opened.
            TimeoutError: The server did not accept it in time.
        """
        async with asyncio.timeout(self._timeout):
            self._connection = await connect(self._port, self._ledger)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await closed(self._opened)

    @property
    def number(self) -> int:
        """Its number in the ledger."""
        return self._opened.number

    @property
    def is_closed_by_server(self) -> bool:
        """Whether the server has closed or reset it, or said `Connection: close`."""
        return self._opened.is_closed_by_server

    @property
    def closed_at(self) -> float | None:
        """When it was closed, by whichever side, in the recording's time."""
        return self._opened.closed_at

    async def ask(
        self,
        shot: Shot,
        *,
        timeout: float,
        group: str | None = None,
        on_first_byte: Callable[[], object] | None = None,
        on_body: Sink | None = None,
    ) -> Request:
        """Send one request and return its row; for one task at a time.

        Waits at most `timeout` seconds. A request that times out, or is cancelled, takes the
        connection with it. On a connection that is closed already, the row says `reset`, with
        no `sent_at`.
        """
        connection = self._opened
        exchange = Exchange(
            self._ledger,
            shot,
            group=group or self._group,
            intended_at=self._ledger.now(),
            timeout=timeout,
            on_first_byte=on_first_byte,
            sink=on_body,
        )
        connection.send(exchange)
        await ended(exchange, connection)
        return row_of(exchange)

    async def wait_closed(self, timeout: float) -> bool:
        """Wait until it is closed, at most `timeout` seconds; returns whether it is."""
        done, _ = await asyncio.wait([self._opened.gone], timeout=timeout)
        return bool(done)

    @property
    def _opened(self) -> Connection:
        if self._connection is None:
            raise RuntimeError("the connection is not open; use it in `async with`")
        return self._connection


async def opened_for(
    exchange: Exchange, port: int, *, receive_buffer_bytes: int | None = None
) -> Connection | None:
    """Open a connection until the exchange's deadline; a failure ends the exchange, with None."""
    left = exchange.deadline - exchange.ledger.now()
    try:
        async with asyncio.timeout(left):
            return await connect(port, exchange.ledger, receive_buffer_bytes=receive_buffer_bytes)
    except TimeoutError:
        exchange.end("timeout", note="the connection was not accepted")
    except OSError as error:
        exchange.end(refusal(error), note=str(error))
    except BaseException:
        exchange.end("left")
        raise
    return None


async def ended(
    exchange: Exchange, connection: Connection, *, otherwise: Ended = "timeout"
) -> None:
    """Wait for the exchange's end, at most until its deadline; then it ends `otherwise`.

    Cancelled, it ends as `left`.
    """
    if exchange.row is not None:
        return
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(_: Exchange) -> None:
        if not waiter.done():
            waiter.set_result(None)

    exchange.on_end = wake
    try:
        await asyncio.wait([waiter], timeout=exchange.deadline - exchange.ledger.now())
    except asyncio.CancelledError:
        connection.end("left")
        raise
    if exchange.row is None:
        connection.end(otherwise)


async def closed(connection: Connection) -> None:
    """Close the connection and wait until its socket is given back."""
    connection.close()
    await connection.gone


def row_of(exchange: Exchange) -> Request:
    """Return the row of an exchange that has ended."""
    assert exchange.row is not None
    return exchange.row
