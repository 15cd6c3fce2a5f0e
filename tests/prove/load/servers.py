"""Servers of the load's tests: scripts for `scripted_server` that say exactly what a test wants."""

import asyncio
import socket
import struct

from stormproof.prove.load import Ledger, Shot
from tests.harness import scripted_server as scripted_server

GET = Shot(route="GET /", method="GET", url="/")
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def new_ledger() -> Ledger:
    return Ledger(asyncio.get_running_loop().time())


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Return the head and the body of the next request; raises EOFError when there is none."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)


async def serve_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request with 200 until the client goes."""
    try:
        while True:
            await read_request(reader)
            writer.write(OK)
    except (EOFError, ConnectionError):
        pass


async def serve_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take every byte and answer none."""
    try:
        while await reader.read(65536):
            pass
    except ConnectionError:
        pass


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset (RST); an abort alone is a polite end where nothing is unread."""
    connected = writer.get_extra_info("socket")
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def says(answer: bytes, *, then: str = "close"):  # type: ignore[no-untyped-def]
    """Return a script that answers each connection's first request with these bytes.

    Then it closes (`close`), resets (`reset`), or waits for the client to go (`stay`).
    """

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await read_request(reader)
            writer.write(answer)
            await writer.drain()
            if then == "reset":
                reset(writer)
            elif then == "stay":
                await reader.read()
        except (EOFError, ConnectionError):
            pass

    return script
