"""Tasks, hygiene and connections: what a request starts and does not look after."""

import asyncio
from pathlib import Path

import pytest

from .stage import Command, plain_uvicorn, proven, uvloop_uvicorn

pytestmark = pytest.mark.storm

APP = """
import asyncio
import os
import socket
from contextlib import asynccontextmanager
import anyio
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

kept = set()

@asynccontextmanager
async def lifespan(app):
    async with anyio.create_task_group() as group:
        app.state.group = group
        yield

app = FastAPI(lifespan=lifespan)

async def work(seconds=0.05):
    await asyncio.sleep(seconds)

async def fail():
    await asyncio.sleep(0.05)
    raise ValueError("nobody looks")  # RAISED

@app.get("/outlive")
async def outlive():
    kept.add(asyncio.create_task(work()))  # OUTLIVE
    kept.add(asyncio.ensure_future(fail()))
    app.state.group.start_soon(work)  # GROUP
    return 1

@app.get("/inside")
async def inside():
    async with asyncio.TaskGroup() as group:
        group.create_task(work())
        group.create_task(work())
    async with anyio.create_task_group() as group:
        group.start_soon(work)
    await asyncio.gather(work(), work())
    await asyncio.wait_for(work(), 1)
    task = asyncio.create_task(work(9))
    await asyncio.sleep(0)
    task.cancel()
    return await run_in_threadpool(lambda: 1)

@app.get("/stream")
async def stream():
    async def parts():
        for number in range(3):
            yield b"x"
            await asyncio.sleep(0.01)
    return StreamingResponse(parts())

@app.middleware("http")
async def middleware(request, call_next): return await call_next(request)

@app.get("/forgotten")
async def forgotten():
    work()  # FORGOTTEN
    return 1

@app.get("/unseen")
async def unseen():
    asyncio.create_task(fail())
    return 1

@app.get("/clear")
async def clear():
    kept.clear()
    return 1

async def waits_for_itself():
    await asyncio.Future()

@app.get("/destroyed")
async def destroyed():
    asyncio.create_task(waits_for_itself())
    await asyncio.sleep(0)
    return 1

@app.get("/connect")
async def connect():
    host, port = os.environ["UPSTREAM"].split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.close()
    await writer.wait_closed()
    await asyncio.to_thread(blocking, host, int(port))
    return 1

def blocking(host, port):
    socket.create_connection((host, port), 1).close()

@app.get("/aiohttp")
async def aiohttp_():
    import aiohttp
    async with aiohttp.ClientSession() as session:
        async with session.get("http://" + os.environ["UPSTREAM"]) as answer:
            return answer.status

@app.get("/httpx2")
async def httpx2_():
    import httpx2
    async with httpx2.AsyncClient() as client:
        return (await client.get("http://" + os.environ["UPSTREAM"])).status_code
"""

LOOPS = pytest.mark.parametrize("command", [plain_uvicorn, uvloop_uvicorn])


def line_marked(word: str) -> int:
    (line,) = (n for n, text in enumerate(APP.splitlines(), 1) if text.endswith(f"# {word}"))
    return line


@LOOPS
async def test_tasks_that_outlive_their_request_are_told_and_others_are_not(
    command: Command, tmp_path: Path
) -> None:
    async with proven(APP, tmp_path, command=command) as stage:
        for number, path in enumerate(["/inside", "/stream", "/outlive"], start=1):
            await stage.ask("GET", path, number)
        outlived = await stage.hears("task", 3, what="outlived")
        ended = await stage.hears("task", 2, what="finished")
        (failed,) = await stage.hears("task", what="failed")
        await stage.hears("request", 3)
        assert len(stage.told("task", what="outlived")) == 3
    assert {event.facts["route"] for event in outlived} == {"GET /outlive"}
    assert {event.facts["id"] for event in outlived} == {3}
    assert {event.facts["line"] for event in outlived} >= {
        line_marked("OUTLIVE"),
        line_marked("GROUP"),
    }
    assert {event.facts["name"] for event in outlived} >= {"work", "fail"}
    keys = {event.facts["key"] for event in outlived}
    assert keys == {event.facts["key"] for event in [*ended, failed]}
    assert "nobody looks" in failed.facts["error"]


@LOOPS
async def test_a_coroutine_never_awaited_is_told_with_its_line_and_the_warning_stays_the_same(
    command: Command, tmp_path: Path
) -> None:
    async with proven(APP, tmp_path, command=command) as stage:
        await stage.ask("GET", "/forgotten", 1)
        await stage.ask("GET", "/forgotten", 2)
        told = await stage.hears("hygiene", 2, what="never-awaited")
        warning = await stage.process.wait_for_line(r"RuntimeWarning: coroutine 'work' was never")
        assert f"{tmp_path}/app.py:{line_marked('FORGOTTEN')}: " in stage.process.stderr
        assert stage.process.stderr.count(warning[0]) == 1
    assert told[0].facts["route"] == "GET /forgotten"
    assert told[0].facts["file"] == str(tmp_path / "app.py")
    assert told[0].facts["line"] == line_marked("FORGOTTEN")


@LOOPS
async def test_exceptions_nobody_retrieves_and_tasks_destroyed_are_told(
    command: Command, tmp_path: Path
) -> None:
    async with proven(APP, tmp_path, command=command) as stage:
        await stage.ask("GET", "/unseen", 1)
        await stage.ask("GET", "/destroyed", 2)
        await stage.hears("task", what="failed")
        await stage.link.collect()
        (unseen,) = await stage.hears("hygiene", what="never-retrieved")
        (destroyed,) = await stage.hears("hygiene", what="destroyed-pending")
        await stage.process.wait_for_line("Task exception was never retrieved")
    assert unseen.facts["route"] == "GET /unseen"
    assert unseen.facts["line"] == line_marked("RAISED")
    assert "nobody looks" in unseen.facts["message"]
    assert destroyed.facts["route"] == "GET /destroyed"
    assert destroyed.facts["file"] == str(tmp_path / "app.py")


@LOOPS
async def test_connections_are_told_with_the_request_that_wanted_them(
    command: Command, tmp_path: Path
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readline():
            writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    upstream = server.sockets[0].getsockname()[1]
    async with (
        server,
        proven(APP, tmp_path, command=command, env={"UPSTREAM": f"127.0.0.1:{upstream}"}) as stage,
    ):
        for number, path in enumerate(["/connect", "/aiohttp", "/httpx2"], start=1):
            assert (await stage.ask("GET", path, number)).status == 200
        await stage.hears("request", 3)
        told = stage.told("connect", port=upstream)
    wanted = [(event.facts["host"], event.facts["route"], event.facts["id"]) for event in told]
    assert wanted == [
        ("127.0.0.1", "GET /connect", 1),
        ("127.0.0.1", "GET /connect", 1),
        ("127.0.0.1", "GET /aiohttp", 2),
        ("127.0.0.1", "GET /httpx2", 3),
    ]
