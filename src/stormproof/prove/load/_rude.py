"""Rude clients: they send half, stop reading, or leave, and note what the server does about it."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from stormproof.prove._recording import Ended, Request

from ._ask import closed, ended, opened_for, row_of
from ._connection import Connection
from ._exchange import Exchange
from ._ledger import Ledger
from ._shot import Shot

_LOOK_EVERY = 0.05
_FILLER = b" " * 1000
_HALF_A_HEAD = Shot(route="(half a head)", method="GET", url="/")

Behaviour = Callable[[Connection, Exchange], None]


async def send_half_head(port: int, *, seconds: float, ledger: Ledger, group: str) -> Request:
    """Send half the head of a request, and wait at most `seconds` for the server to close.

    The row ends as `timeout` where the server waited longer; `reset` or `complete` (a 408, for
    instance) where it closed; its note says when. Cancelled, it ends as `left`.
    """

    def send(connection: Connection, exchange: Exchange) -> None:
        head = exchange.shot.encoded(exchange.id).removesuffix(b"\r\n\r\n")
        connection.send(exchange, raw=head + b"\r\nX-Half: ")

    return await _hold(port, _HALF_A_HEAD, send, seconds=seconds, ledger=ledger, group=group)


async def send_half_body(
    port: int, shot: Shot, *, seconds: float, ledger: Ledger, group: str
) -> Request:
    """Send the whole head and half of the body it announces, and wait at most `seconds`.

    A shot without a body gets one of 1,000 bytes. The row ends as in `send_half_head`; a server
    that does not want the body may well answer at once.
    """
    shot = replace(shot, body=shot.body or _FILLER)

    def send(connection: Connection, exchange: Exchange) -> None:
        kept_back = (len(shot.body) + 1) // 2
        connection.send(exchange, raw=exchange.shot.encoded(exchange.id)[:-kept_back])

    return await _hold(port, shot, send, seconds=seconds, ledger=ledger, group=group)


async def read_slowly(
    port: int,
    shot: Shot,
    *,
    seconds: float,
    ledger: Ledger,
    group: str,
    receive_buffer: int = 4096,
    read_bytes: int = 0,
) -> Request:
    """Send a request, stop reading after the answer's first bytes, and hold on for `seconds`.

    The row ends as `left` where the server held on as well; as `complete` where the answer was
    no longer than what was read; as `truncated` where the server cut it, which a stalled
    reader learns from a reset alone: a plain end waits behind the bytes that are not read.

    Args:
        port: The server's, on 127.0.0.1.
        shot: What is sent; its answer should be larger than the kernel's buffers (some MB).
        seconds: How long to hold on.
        ledger: Gets the row.
        group: Which part it has in the attack.
        receive_buffer: Of the kernel, in bytes; Linux doubles it.
        read_bytes: Of the body, to be read before the stall; 0: what comes first.
    """
    to_read = max(1, read_bytes)

    def send(connection: Connection, exchange: Exchange) -> None:
        def take(received: bytes) -> None:
            nonlocal to_read
            if 0 < to_read <= len(received):
                connection.pause_reading()  # once: at its end it is read again
            to_read -= len(received)

        exchange.sink = take
        connection.send(exchange)

    return await _hold(
        port,
        shot,
        send,
        seconds=seconds,
        ledger=ledger,
        group=group,
        otherwise="left",
        receive_buffer_bytes=receive_buffer,
    )


async def leave_early(
    port: int, shot: Shot, *, after: float, ledger: Ledger, group: str
) -> Request:
    """Send a request and close the connection `after` seconds later.

    The row ends as `left`, or as it did where the answer came sooner.
    """

    def send(connection: Connection, exchange: Exchange) -> None:
        connection.send(exchange)

    return await _hold(
        port, shot, send, seconds=after, ledger=ledger, group=group, otherwise="left"
    )


async def _hold(
    port: int,
    shot: Shot,
    send: Behaviour,
    *,
    seconds: float,
    ledger: Ledger,
    group: str,
    otherwise: Ended = "timeout",
    receive_buffer_bytes: int | None = None,
) -> Request:
    """Connect, send, and wait for `seconds` whether the server ends it."""
    exchange = Exchange(ledger, shot, group=group, intended_at=ledger.now(), timeout=seconds)
    connection = await opened_for(exchange, port, receive_buffer_bytes=receive_buffer_bytes)
    if connection is None:
        return row_of(exchange)
    exchange.remark = lambda how: _remark(exchange, connection, how)
    watching = asyncio.create_task(_read_on_at_its_end(connection))
    try:
        send(connection, exchange)
        await ended(exchange, connection, otherwise=otherwise)
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        await closed(connection)
    return row_of(exchange)


async def _read_on_at_its_end(connection: Connection) -> None:
    """Read again when the server has ended a connection that is not read: then it is known how."""
    is_open = True
    while is_open:
        await asyncio.sleep(_LOOK_EVERY)
        is_open = connection.is_still_established()
    connection.resume_reading()


def _remark(exchange: Exchange, connection: Connection, how: Ended) -> str:
    passed = exchange.ledger.now() - exchange.intended_at
    if how in ("timeout", "left"):
        return f"open for {passed:.1f} s"
    if how == "complete":
        return f"answered {connection.answer.status} after {passed:.1f} s"
    return f"closed by server after {passed:.1f} s"
