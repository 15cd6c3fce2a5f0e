"""Tiny HTTP servers on loopback that behave, or do not."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.harness import scripted_server


@dataclass
class Peer:
    """One server; the path of a request chooses how it answers, and `requests` keeps the heads."""

    port: int = 0
    requests: list[str] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    open_connections: int = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_connections += 1
        try:
            while head := await self._head(reader):
                self.requests.append(head)
                self.arrived.set()
                path = head.split(" ")[1].split("?")[0]
                if not await self._answer(path, reader, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open_connections -= 1

    async def _head(self, reader: asyncio.StreamReader) -> str:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            return ""
        if " /unread " in head:
            return head
        for line in head.splitlines():
            if line.lower().startswith("content-length:"):
                await reader.readexactly(int(line.split(":")[1]))
        return head

    async def _answer(
        self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        match path:
            case "/hang":
                await reader.read(1)  # until the client leaves
                return False
            case "/half":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf")
                await reader.read(1)
                return False
            case "/unread":
                await asyncio.sleep(60)
            case "/pieces":
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
                leaving = asyncio.ensure_future(reader.read(1))
                releasing = asyncio.ensure_future(self.released.wait())
                await asyncio.wait((leaving, releasing), return_when=asyncio.FIRST_COMPLETED)
                for waiting in (leaving, releasing):
                    waiting.cancel()
                await asyncio.wait((leaving, releasing))
                writer.write(b"3\r\ntwo\r\n0\r\n\r\n")
                return self.released.is_set()
            case "/big":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n")
                writer.write(b"x" * 3_000_000)
                await writer.drain()
                return True
            case "/hang-once" if sum(" /hang-once " in head for head in self.requests) == 1:
                await reader.read(1)
                return False
            case "/drip":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
                for _ in range(1000):
                    if writer.is_closing():  # uvloop raises no OSError then
                        return False
                    writer.write(b".")
                    await writer.drain()
                    await asyncio.sleep(0.01)
            case "/garbage":
                writer.write(b"this is not HTTP\r\n\r\n")
            case "/reset":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf")
                await writer.drain()
                writer.transport.abort()
            case "/closed":
                writer.transport.abort()
            case "/503":
                writer.write(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
                return True
            case "/text":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
                return True
            case _:
                body = json.dumps({"path": path}).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nset-cookie: a=1\r\n"
                    b"content-length: %d\r\n\r\n%b" % (len(body), body)
                )
                return True
        return False


@asynccontextmanager
async def peer() -> AsyncIterator[Peer]:
    server = Peer()
    async with scripted_server(server.serve) as server.port:
        yield server


def told_seconds(head: str) -> str:
    """Return the value of `X-Request-Timeout` in a request's head."""
    (line,) = (line for line in head.splitlines() if line.lower().startswith("x-request-timeout"))
    return line.split(":")[1].strip()
