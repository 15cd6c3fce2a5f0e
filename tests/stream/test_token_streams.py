"""The tokens of a model on their way through: an upstream's stream, one reader, an end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from fastapi import FastAPI

from stormproof import SSEResponse, Upstream
from stormproof._core.lifecycle import Lifecycle, Phase
from tests.harness import Connection, Stream, encode_request, until

from .serving import WithLifecycle, reasons, serving


class Model:
    """A server that sends a token for each that is put, and notes when nobody listens."""

    def __init__(self) -> None:
        self.tokens: asyncio.Queue[str | None] = asyncio.Queue()
        self.left = asyncio.Event()
        self._served: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]
            if self._served:
                await asyncio.wait(self._served)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._served.add(task)
        await reader.readuntil(b"\r\n\r\n")
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head.encode())
        sending = asyncio.create_task(self._send(writer))
        with suppress(ConnectionError):
            await reader.read()  # until the client closes or resets
        self.left.set()
        sending.cancel()
        await asyncio.wait([sending])
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        while (token := await self.tokens.get()) is not None:
            writer.write(f"{len(token) + 1:x}\r\n{token}\n\r\n".encode())
        writer.write(b"0\r\n\r\n")


@asynccontextmanager
async def served(model: Model, lifecycle: Lifecycle, **settings: float) -> AsyncIterator[int]:
    async with model.running() as port, Upstream(base_url=f"http://127.0.0.1:{port}") as upstream:
        app = FastAPI()

        async def tokens() -> AsyncIterator[str]:
            async with upstream.client.stream("GET", "/complete", timeout=None) as answer:
                answer.raise_for_status()
                async for token in answer.aiter_lines():
                    yield token

        @app.get("/answer")
        async def answer() -> SSEResponse:
            return SSEResponse(tokens(), on_drain="finish", **settings)

        async with serving(WithLifecycle(app, lifecycle)) as own_port:
            yield own_port


async def test_tokens_come_as_they_are_made_and_a_drain_waits_for_the_last() -> None:
    model, lifecycle = Model(), Lifecycle()
    async with served(model, lifecycle) as port, Stream(port, "/answer") as stream:
        model.tokens.put_nowait("one")
        assert (await stream.next_event()).data == "one"
        lifecycle.enter(Phase.DRAINING)
        assert not lifecycle.streams
        model.tokens.put_nowait("two")
        assert (await stream.next_event()).data == "two"
        model.tokens.put_nowait(None)
        assert await stream.finish() == "complete"


async def test_client_that_leaves_ends_the_work_of_the_model() -> None:
    model, lifecycle = Model(), Lifecycle()
    with reasons(lifecycle) as seen:
        async with served(model, lifecycle) as port:
            async with Stream(port, "/answer") as stream:
                model.tokens.put_nowait("one")
                await stream.next_event()
                stream.abort()
            await asyncio.wait_for(model.left.wait(), 5)
            await until(lambda: seen)
    assert seen == ["left"]


@pytest.mark.parametrize("kind", ["silent model", "stalled reader"])
async def test_neither_side_holds_the_other_for_longer_than_its_limit(kind: str) -> None:
    model, lifecycle = Model(), Lifecycle()
    settings = {"idle_timeout": 0.1} if kind == "silent model" else {"send_timeout": 0.1}
    with reasons(lifecycle) as seen:
        async with served(model, lifecycle, **settings) as port:
            if kind == "silent model":
                async with Stream(port, "/answer") as stream:
                    assert await stream.finish() == "truncated"
                assert stream.events[-1].event == "error"
            else:
                for _ in range(100):
                    model.tokens.put_nowait("x" * 65_535)
                async with await Connection.open(port, receive_buffer_bytes=4096) as connection:
                    await connection.send(encode_request("GET", "/answer"))
                    await until(lambda: seen)
            await asyncio.wait_for(model.left.wait(), 5)
    assert seen == ["idle" if kind == "silent model" else "stalled"]
