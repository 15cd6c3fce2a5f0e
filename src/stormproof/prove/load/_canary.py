"""The canary: asks one path again and again, all through an attack."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stormproof.prove._recording import Probe, Request

from ._ask import closed, ended, opened_for, row_of
from ._connection import Connection
from ._exchange import Exchange
from ._ledger import Ledger
from ._shot import Shot


@asynccontextmanager
async def canary(
    port: int, path: str, *, zero: float, interval: float = 0.05, timeout: float = 2.0
) -> AsyncIterator[list[Probe]]:
    """Ask `path` every `interval` seconds on one keep-alive connection; yields the answers so far.

    A question follows on the answer of the one before, so a server that is stuck is asked less
    often. A connection the server has closed is opened anew, also when it closes it under the
    question; what is not answered within `timeout` seconds, or refused, is a status of 0. The
    questions have no number, so the agent does not tell of them. At exit a question under way is
    dropped, and the connection is closed.

    Args:
        port: The server's, on 127.0.0.1.
        path: What is asked, with GET.
        zero: Of the recording.
        interval: Seconds from one question to the next.
        timeout: Seconds until it gives up.
    """
    probes: list[Probe] = []
    asking = asyncio.create_task(_ask_on(port, path, probes, zero, interval, timeout))
    try:
        yield probes
    finally:
        asking.cancel()
        await asyncio.wait([asking])
        if not asking.cancelled():
            asking.result()


async def _ask_on(
    port: int, path: str, probes: list[Probe], zero: float, interval: float, timeout: float
) -> None:
    shot = Shot(route="(canary)", method="GET", url=path)
    ledger = Ledger(zero)
    connection: Connection | None = None
    next_at = ledger.now()
    try:
        while True:
            row, connection = await _question(port, shot, connection, ledger, timeout)
            ledger.rows.clear()
            at = row.intended_at
            status = row.status if row.ended == "complete" else 0
            probes.append(Probe(at, (row.last_byte_at or ledger.now()) - at, status))
            next_at = max(next_at + interval, ledger.now())
            await asyncio.sleep(next_at - ledger.now())
    finally:
        if connection is not None:
            await closed(connection)


async def _question(
    port: int, shot: Shot, connection: Connection | None, ledger: Ledger, timeout: float
) -> tuple[Request, Connection | None]:
    exchange = Exchange(ledger, shot, group="canary", intended_at=ledger.now(), timeout=timeout)
    if connection is not None and not connection.is_idle:
        await closed(connection)
        connection = None
    is_reused = connection is not None
    connection = connection or await opened_for(exchange, port)
    if connection is None:
        return row_of(exchange), None
    try:
        connection.send(exchange, raw=shot.encoded(0))
        await ended(exchange, connection)
    except BaseException:
        await closed(connection)
        raise
    row = row_of(exchange)
    if row.ended == "reset" and is_reused:
        # Its idle time was over: a platform's probe would have come on a new connection.
        return await _question(port, shot, connection, ledger, timeout)
    return row, connection
