"""WebSockets leave at the drain: a notice of their own, then close code 1012, on real servers."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from signal import SIGTERM

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.faults.ways import (
    GRANIAN,
    GUNICORN,
    HYPERCORN_ALONE,
    SERVE,
    UVICORN,
    UVICORN_WORKERS,
    Way,
)
from tests.harness import ServerProcess, free_port, request, until

SERVICE_RESTART = 1012

APP = """
import asyncio
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
import stormproof

app = FastAPI()
stormproof.install(app)

@app.websocket("/echo")
async def echo(websocket: WebSocket):
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect as gone:
        print("echo was told", gone.code, flush=True)

@app.websocket("/polite")
async def polite(websocket: WebSocket):
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.scope["stormproof.place"].leave.wait()
    await websocket.send_text("goodbye")

@app.websocket("/deaf")
async def deaf(websocket: WebSocket):
    await websocket.accept()
    await websocket.send_text("hello")
    try:
        await asyncio.sleep(3600)
    finally:
        print("deaf was cancelled", flush=True)

@app.websocket("/talking")
async def talking(websocket: WebSocket):
    await websocket.accept()
    while True:
        await websocket.send_text("still here")
        await asyncio.sleep(0.05)

@app.websocket("/stubborn")
async def stubborn(websocket: WebSocket):
    await websocket.accept()
    await websocket.send_text("hello")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

@app.get("/ready")
async def ready():
    return {"ok": True}
"""

WAYS = pytest.mark.parametrize(
    "way", [SERVE, UVICORN, UVICORN_WORKERS, GUNICORN, GRANIAN, HYPERCORN_ALONE], ids=str
)


@asynccontextmanager
async def running(way: Way, **env: str) -> AsyncIterator[tuple[ServerProcess, int]]:
    port = free_port()
    defaults = {"STORMPROOF_PRESTOP": "0.5", "STORMPROOF_GRACE": "15"}
    async with ServerProcess(
        way.command("main:app", port), env=defaults | env, files={"main.py": APP}
    ) as process:
        await process.wait_ready(port, "/ready", timeout=20.0)
        yield process, port


def socket(port: int, path: str) -> connect:
    return connect(f"ws://127.0.0.1:{port}{path}", compression=None, proxy=None)


async def closing(connection: ClientConnection) -> tuple[list[str], int | None]:
    """Read to the end; return the messages and the server's close code."""
    messages: list[str] = []
    try:
        async with asyncio.timeout(15.0):
            while True:
                messages.append(str(await connection.recv()))
    except ConnectionClosed as closed:
        return messages, closed.rcvd.code if closed.rcvd else None


@WAYS
async def test_each_socket_is_closed_with_service_restart(way: Way) -> None:
    """Whether its endpoint reads, writes, sleeps or says goodbye by itself; exit code 0."""
    paths = ["/echo", "/polite", "/deaf", "/talking"]
    async with running(way) as (process, port), AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(socket(port, path)) for path in paths for _ in range(5)
        ]
        await opened[0].send("one")
        assert await opened[0].recv() == "one"
        signalled_at = time.monotonic()
        process.signal(SIGTERM)
        closed = await asyncio.gather(*(closing(connection) for connection in opened))
        assert [code for _, code in closed] == [SERVICE_RESTART] * len(opened)
        assert [messages for messages, _ in closed[5:10]] == [["hello", "goodbye"]] * 5
        assert await process.wait_exit(timeout=15.0) == 0
        assert time.monotonic() - signalled_at < 9.0  # grace is 15
        assert process.output.count(f"echo was told {SERVICE_RESTART}") == 5
        assert process.output.count("deaf was cancelled") == 5
        assert "Traceback" not in process.output


async def test_socket_that_opens_in_the_lame_duck_is_served_until_its_turn() -> None:
    async with running(UVICORN, STORMPROOF_PRESTOP="2") as (process, port):
        process.signal(SIGTERM)
        await until(lambda: is_draining(port))
        async with socket(port, "/echo") as connection:
            await connection.send("late")
            assert await connection.recv() == "late"
            assert await closing(connection) == ([], SERVICE_RESTART)
        assert await process.wait_exit() == 0


async def is_draining(port: int) -> bool:
    return (await request(port, "GET", "/readyz")).status == 503


async def test_endpoint_that_ignores_everything_is_named_and_cannot_outlast_the_grace() -> None:
    env = {"STORMPROOF_PRESTOP": "0", "STORMPROOF_GRACE": "3"}
    async with running(UVICORN, **env) as (process, port), socket(port, "/stubborn") as connection:
        assert await connection.recv() == "hello"
        process.signal(SIGTERM)
        assert await closing(connection) == ([], SERVICE_RESTART)
        assert await process.wait_exit(timeout=6.0) == 3
        assert "in stubborn" in process.output


async def test_client_that_leaves_is_an_ordinary_disconnect() -> None:
    async with running(UVICORN) as (process, port):
        async with socket(port, "/echo") as connection:
            await connection.send("one")
            assert await connection.recv() == "one"
        await process.wait_for_line("echo was told 1000")
        with pytest.raises(InvalidStatus):
            async with socket(port, "/nowhere"):
                pass
        process.signal(SIGTERM)
        assert await process.wait_exit() == 0
        assert "Traceback" not in process.output
