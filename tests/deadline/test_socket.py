"""The same over a real socket: what the client of a uvicorn server gets to see."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse

from stormproof._core.events import DeadlineExpired, Events, OverdueFinished
from stormproof.deadline import DeadlineMiddleware, limit_request
from tests.harness import until


@asynccontextmanager
async def serving(app: Any, http: str) -> AsyncIterator[int]:
    config = uvicorn.Config(app, port=0, http=http, lifespan="off", log_config=None)  # type: ignore[arg-type]
    listener = config.bind_socket()
    listener.listen()
    server = uvicorn.Server(config)
    # _serve leaves the signal handlers alone.
    task = asyncio.create_task(server._serve([listener]))
    try:
        # It loads its protocols on the loop, 0.2 s in the first test: no request should wait there.
        await until(lambda: server.started, 30.0)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listener.close()


async def get(port: int, path: str, *, close: bool = True) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"GET {path} HTTP/1.1", "host: localhost"]
    lines += ["connection: close"] if close else []
    writer.write("\r\n".join([*lines, "", ""]).encode())
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.fixture(params=["h11", "httptools"])
def http(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_the_504_is_on_the_wire_while_the_handler_still_runs(http: str) -> None:
    release, ended, events = asyncio.Event(), asyncio.Event(), Events()
    app = FastAPI()

    @app.get("/items/{number}")
    async def endpoint(number: int, request: Request) -> None:
        limit_request(request.scope, 0.01)
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()

    seen: list[Any] = []
    events.subscribe(seen.append)
    events.subscribe(lambda event: ended.set() if isinstance(event, OverdueFinished) else None)
    async with serving(DeadlineMiddleware(app, events=events), http) as port:
        raw = await get(port, "/items/7")
        assert raw.startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")
        assert raw.count(b"HTTP/1.1") == 1
        assert b"application/problem+json" in raw
        assert b'"SP301"' in raw
        assert not ended.is_set()
        release.set()
        await ended.wait()
    assert seen[0] == DeadlineExpired("GET /items/{number}", pytest.approx(0.01), answered=True)


async def test_a_body_that_is_cut_is_seen_as_cut_and_logs_one_line(
    http: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI()

    @app.get("/lines")
    async def endpoint(request: Request) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            yield "first"
            limit_request(request.scope, 0.3)
            await asyncio.Event().wait()

        return StreamingResponse(body())

    @app.get("/events", response_class=EventSourceResponse)
    async def events(request: Request) -> AsyncIterator[str]:
        yield "first"
        limit_request(request.scope, 0.3)
        await asyncio.Event().wait()

    async with serving(DeadlineMiddleware(app), http) as port:
        for path in ("/lines", "/events"):
            with caplog.at_level(logging.ERROR):
                raw = await get(port, path, close=False)
            assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"first" in raw
            assert raw.count(b"HTTP/1.1") == 1
            assert not raw.endswith(b"0\r\n\r\n")
    messages = [(record.getMessage(), record.exc_info) for record in caplog.records]
    assert messages == [("ASGI callable returned without completing response.", None)] * 2


async def test_a_stopping_server_still_cancels_an_overdue_handler(http: str) -> None:
    ended: list[str] = []
    answered = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        limit_request(scope, 0.01)
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled by the server")

    events = Events()
    events.subscribe(lambda event: answered.set())
    config = uvicorn.Config(
        DeadlineMiddleware(app, events=events),
        port=0,
        http=http,  # type: ignore[arg-type]
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=0,
    )
    listener = config.bind_socket()
    listener.listen()  # clients may come before the server has started
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([listener]))
    raw = await get(listener.getsockname()[1], "/")
    assert raw.startswith(b"HTTP/1.1 504")
    await answered.wait()
    server.should_exit = True
    await task
    listener.close()
    while server.server_state.tasks:  # uvicorn cancels them and does not wait
        await asyncio.sleep(0)
    assert ended == ["cancelled by the server"]
