"""A hundred clients that send half a request head each: closed in time, and nobody else waits."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.harness import (
    Answer,
    Connection,
    ServerProcess,
    free_port,
    request,
    serve_app,
    uvicorn_app,
)

APP = "from fastapi import FastAPI\napp = FastAPI()\n"
HALF = b"GET /livez HTTP/1.1\r\nhost: a\r\nx-slow: "
CLIENTS = 100


async def half_sent(stack: AsyncExitStack, port: int, text: bytes) -> list[Connection]:
    connections = []
    for _ in range(CLIENTS):
        connection = await stack.enter_async_context(await Connection.open(port))
        if text:
            await connection.send(text)
        connections.append(connection)
    return connections


async def healthy_answers(port: int, done: asyncio.Event) -> list[Answer]:
    answers = []
    while not done.is_set():
        answers.append(await request(port, "GET", "/livez", timeout=2.0))
        await asyncio.sleep(0.02)
    return answers


@pytest.mark.parametrize(("text", "status"), [(HALF, 408), (b"", 0)], ids=["half", "nothing"])
@pytest.mark.parametrize("extra", [(), ("--workers", "2")], ids=["alone", "workers"])
async def test_hundred_half_sent_heads_are_closed_in_time(
    text: bytes, status: int, extra: tuple[str, ...]
) -> None:
    port = free_port()
    command = serve_app("main:app", port, "--header-timeout", "1", *extra)
    async with ServerProcess(command, files={"main.py": APP}) as process, AsyncExitStack() as stack:
        await process.wait_ready(port, timeout=20.0)
        connections = await half_sent(stack, port, text)
        done = asyncio.Event()
        health = asyncio.create_task(healthy_answers(port, done))
        answers = await asyncio.gather(
            *(connection.read_answer(timeout=10.0) for connection in connections)
        )
        done.set()
        assert [answer.status for answer in answers] == [status] * CLIENTS
        assert {answer.ended for answer in answers} <= {"complete", "truncated"}
        assert max(answer.elapsed for answer in answers) < 5.0
        others = await health
        assert {answer.status for answer in others} == {200}
        assert "Traceback" not in process.output


async def test_stock_server_keeps_half_sent_heads_open() -> None:
    port = free_port()
    async with (
        ServerProcess(
            uvicorn_app("main:app", port, "--timeout-keep-alive", "1"),
            files={"main.py": APP + "@app.get('/livez')\ndef livez(): ...\n"},
        ) as process,
        AsyncExitStack() as stack,
    ):
        await process.wait_ready(port)
        connections = await half_sent(stack, port, HALF)
        # A connection that is kept idle is closed after the second that uvicorn knows of.
        kept = await stack.enter_async_context(await Connection.open(port))
        await kept.request("GET", "/livez")
        assert (await kept.read_answer(timeout=10.0)).ended == "truncated"
        assert not any(connection.is_closed_by_server() for connection in connections)
