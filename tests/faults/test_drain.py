"""A deploy loses nothing: SIGTERM with everything open, on both ways of running the service."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals

import pytest

from tests.faults.mail_gate import GatedMailSink
from tests.harness import (
    Connection,
    ServerProcess,
    Stream,
    free_port,
    request,
    serve_app,
    until,
    uvicorn_app,
)

OURS = "stormproof.demo.service:app"
SEED = "stormproof.demo.seed:app"

Command = Callable[..., list[str]]
WAYS = pytest.mark.parametrize("command", [serve_app, uvicorn_app], ids=["serve", "uvicorn"])


@asynccontextmanager
async def running(
    command: Command, app: str, **env: str
) -> AsyncIterator[tuple[ServerProcess, int]]:
    """Run `app` in a process of its own until the block ends."""
    port = free_port()
    defaults = {"STORMPROOF_PRESTOP": "0.5", "STORMPROOF_GRACE": "20"}
    async with ServerProcess(command(app, port), env=defaults | env) as process:
        await process.wait_ready(port, "/startupz")
        yield process, port


async def is_draining(port: int) -> bool:
    answer = await request(port, "GET", "/readyz")
    return answer.status == 503


@WAYS
async def test_nothing_is_lost_when_everything_is_open(command: Command) -> None:
    """50 requests of 2 s, 20 streams and 10 acknowledged mails at SIGTERM; exit code 0."""
    async with GatedMailSink() as mail, AsyncExitStack() as stack:
        process, port = await stack.enter_async_context(running(command, OURS, SMTP_URL=mail.url))
        streams = [
            await stack.enter_async_context(Stream(port, "/stream", timeout=15.0))
            for _ in range(20)
        ]
        mails = await asyncio.gather(
            *(request(port, "POST", f"/send-email?email=user{n}@example.com") for n in range(10))
        )
        assert [answer.status for answer in mails] == [200] * 10
        await until(lambda: mail.waiting == 10, timeout=5.0)
        requests = [
            asyncio.create_task(request(port, "GET", "/with-timeout?seconds=2", timeout=15.0))
            for _ in range(50)
        ]
        await asyncio.sleep(0)
        for stream in streams:
            await stream.next_event()
        # A later connection has been answered, so the 50 before it have been read.
        assert (await request(port, "GET", "/livez")).status == 200

        process.signal(SIGTERM)
        await until(lambda: is_draining(port), timeout=5.0)
        mail.open_gate()

        answers = await asyncio.gather(*requests)
        assert [(answer.status, answer.ended) for answer in answers] == [(200, "complete")] * 50
        ends = await asyncio.gather(*(stream.finish(timeout=10.0) for stream in streams))
        assert ends == ["complete"] * 20
        assert [stream.events[-1].event for stream in streams] == ["drain"] * 20
        assert all(stream.events[-1].retry is not None for stream in streams)
        assert await process.wait_exit() == 0
        assert sorted(message.to for message in mail.messages) == sorted(
            f"user{n}@example.com" for n in range(10)
        )
        assert "Traceback" not in process.output


async def test_seed_loses_its_mails_and_never_ends_its_streams() -> None:
    """The post's service in the same storm: the stream keeps it alive until it is killed."""
    async with GatedMailSink() as mail, AsyncExitStack() as stack:
        process, port = await stack.enter_async_context(
            running(uvicorn_app, SEED, SMTP_URL=mail.url)
        )
        stream = await stack.enter_async_context(Stream(port, "/stream"))
        await stream.next_event()
        answer = await request(port, "POST", "/send-email?email=user@example.com")
        assert answer.status == 200
        process.signal(SIGTERM)
        await process.wait_for_line("Waiting for connections to close")
        for _ in range(10):
            assert (await stream.next_event()).event != "drain"
        assert process.is_running()
        assert mail.messages == []


@WAYS
async def test_new_requests_are_served_in_the_lame_duck_and_told_to_reconnect(
    command: Command,
) -> None:
    """A load balancer that has not noticed yet loses nothing."""
    async with running(command, OURS, STORMPROOF_PRESTOP="2") as (process, port):
        async with await Connection.open(port) as kept:
            before = await request(port, "GET", "/async", connection=kept)
            assert "connection" not in before.headers
            process.signal(SIGTERM)
            await until(lambda: is_draining(port), timeout=5.0)
            during = await request(port, "GET", "/async", connection=kept)
            assert (during.status, during.headers["connection"]) == (200, "close")
        for path in ("/livez", "/startupz", "/sync", "/async"):
            answer = await request(port, "GET", path)
            assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await process.wait_exit() == 0


async def test_ctrl_c_drains_without_a_lame_duck() -> None:
    async with running(serve_app, OURS, STORMPROOF_PRESTOP="15") as (process, _):
        process.signal(SIGINT)
        assert await process.wait_exit(timeout=5.0) == 0


@WAYS
async def test_second_signal_forces_the_exit_with_clean_up_run(command: Command) -> None:
    async with running(command, OURS, STORMPROOF_PRESTOP="10") as (process, port):
        slow = asyncio.create_task(request(port, "GET", "/with-timeout?seconds=4.5", timeout=15.0))
        await asyncio.sleep(0)
        assert (await request(port, "GET", "/livez")).status == 200
        process.signal(SIGTERM)
        await until(lambda: is_draining(port), timeout=5.0)
        process.signal(SIGTERM)
        code = await process.wait_exit(timeout=3.0)
        answer = await slow
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "lost request 'GET /with-timeout'" in process.output
        assert code == 3


async def test_work_that_outlasts_the_grace_is_named_and_the_exit_code_is_3() -> None:
    app = """
import asyncio
from fastapi import FastAPI
import stormproof
app = FastAPI()
tasks = stormproof.Tasks()
stormproof.install(app, tasks)
@app.post("/work")
async def work():
    tasks.spawn(asyncio.sleep, 60)
"""
    port = free_port()
    env = {"STORMPROOF_GRACE": "2", "STORMPROOF_PRESTOP": "0"}
    async with ServerProcess(serve_app("app:app", port), env=env, files={"app.py": app}) as process:
        await process.wait_ready(port, "/startupz")
        assert (await request(port, "POST", "/work")).status == 200
        process.signal(SIGTERM)
        assert await process.wait_exit(timeout=5.0) == 3
        assert "lost task" in process.output


@pytest.mark.storm
@pytest.mark.parametrize("end", [SIGKILL, SIGTERM])
async def test_mail_arrives_once_although_the_server_ends_before_it_is_sent(
    end: Signals, tmp_path: Path
) -> None:
    """An acknowledged mail is a durable job: the next server sends it."""
    env = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/demo.db",
        "STORMPROOF_GRACE": "2",
        "STORMPROOF_PRESTOP": "0",
    }
    async with GatedMailSink() as mail:
        async with running(serve_app, OURS, SMTP_URL=mail.url, **env) as (process, port):
            answer = await request(port, "POST", "/send-email?email=user@example.com")
            assert answer.status == 200
            await until(lambda: mail.waiting == 1)
            process.signal(end)
            code = await process.wait_exit(timeout=5.0)
            assert code == (0 if end is SIGTERM else -SIGKILL)
        assert mail.messages == []
        mail.open_gate()
        async with running(serve_app, OURS, SMTP_URL=mail.url, **env):
            await until(lambda: mail.messages)
        assert [message.to for message in mail.messages] == ["user@example.com"]


async def test_stalled_reader_cannot_hold_the_exit() -> None:
    """A client that stops reading its export is cut at the end of its share of the grace."""
    app = """
import asyncio
from fastapi import FastAPI
import stormproof
app = FastAPI()
stormproof.install(app)
async def batches():
    while True:
        yield [{"n": "x" * 1000}] * 100
@app.get("/export")
async def export():
    return stormproof.RowsResponse(batches(), format="ndjson")
"""
    port = free_port()
    env = {"STORMPROOF_GRACE": "2", "STORMPROOF_PRESTOP": "0"}
    async with ServerProcess(
        serve_app("main:app", port), env=env, files={"main.py": app}
    ) as process:
        await process.wait_ready(port, "/startupz")
        async with Stream(port, "/export") as stalled:
            assert stalled.status == 200
            process.signal(SIGTERM)
            assert await process.wait_exit(timeout=5.0) == 3
            assert "lost request 'GET /export'" in process.output
            assert await stalled.finish() != "complete"
