"""What the apps depend on: a PostgreSQL of their own, an HTTP upstream on loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.harness import running_postgres

_ANSWER = b'{"price": 42}'
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


@asynccontextmanager
async def postgres() -> AsyncIterator[dict[str, str]]:
    """Run PostgreSQL and yield `DATABASE_URL`, without a driver in its scheme."""
    with running_postgres() as url:
        yield {"DATABASE_URL": url.replace("+asyncpg", "")}


@asynccontextmanager
async def upstream(*, seconds: float = 0.0) -> AsyncIterator[dict[str, str]]:
    """Serve a price over HTTP, `seconds` after each question, and yield `QUOTES_URL`."""
    conversations: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        conversations.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while await reader.readuntil(b"\r\n\r\n"):
                    await asyncio.sleep(seconds)
                    writer.write(_HEAD % len(_ANSWER) + _ANSWER)
                    await writer.drain()
        finally:
            writer.transport.abort()
            conversations.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield {"QUOTES_URL": f"http://127.0.0.1:{port}/quote"}
    finally:
        server.close()
        open_ones = list(conversations)
        for conversation in open_ones:
            conversation.cancel()
        await asyncio.gather(*open_ones, return_exceptions=True)
        await server.wait_closed()
