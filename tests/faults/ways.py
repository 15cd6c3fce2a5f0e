"""The ways of running one service that the drain is promised for, and what is done to each."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from signal import SIGTERM

from tests.faults.load import Outcome, steady_load
from tests.harness import ServerProcess, Stream, free_port, serve_app, until, uvicorn_app

APP = """
import asyncio, os, time
from contextlib import asynccontextmanager
from fastapi import FastAPI, WebSocket
import stormproof

@asynccontextmanager
async def lifespan(app):
    print("starting", flush=True)
    await asyncio.sleep(float(os.environ.get("SLOW_START", "0")))
    if os.environ.get("FAIL_START"):
        raise RuntimeError("no start")
    yield
    print("teardown reached", flush=True)

app = FastAPI(lifespan=lifespan)
if os.environ.get("STOCK") != "1":
    stormproof.install(app)

@app.get("/ready")
async def ready():
    return {"ok": True}

@app.get("/quick")
async def quick():
    return {"ok": True}

@app.get("/slow")
async def slow(seconds: float):
    try:
        await asyncio.sleep(seconds)
    finally:
        print("cleaned up", flush=True)
    return {"ok": True}

@app.get("/stubborn")
async def stubborn():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            print("cancellation ignored", flush=True)

@app.get("/blocking")
async def blocking():
    print("blocking", flush=True)
    time.sleep(60)

async def ticks():
    n = 0
    while True:
        yield str(n)
        n += 1
        await asyncio.sleep(0.2)

@app.get("/stream")
async def stream():
    return stormproof.SSEResponse(ticks())
"""


@dataclass(frozen=True, slots=True)
class Way:
    """One way of running the app.

    Attributes:
        name: What the documentation calls it.
        command: From `module:app` and a port to the command.
    """

    name: str
    command: Callable[[str, int], list[str]]

    def __str__(self) -> str:
        return self.name


def _uvicorn_workers(app: str, port: int) -> list[str]:
    return uvicorn_app(app, port, "--workers", "2")


def _fastapi_workers(app: str, port: int) -> list[str]:
    command = [sys.executable, "-m", "fastapi", "run", app.split(":")[0] + ".py"]
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "2"]


def _gunicorn(app: str, port: int) -> list[str]:
    command = [sys.executable, "-m", "gunicorn", app, "-k", "uvicorn_worker.UvicornWorker"]
    return [*command, "-b", f"127.0.0.1:{port}", "-w", "2"]


def _granian(app: str, port: int) -> list[str]:
    command = [sys.executable, "-m", "granian", "--interface", "asgi", app]
    return [*command, "--host", "127.0.0.1", "--port", str(port)]


def _hypercorn(app: str, port: int) -> list[str]:
    return [sys.executable, "-m", "hypercorn", app, "-b", f"127.0.0.1:{port}"]


def _hypercorn_alone(app: str, port: int) -> list[str]:
    return [*_hypercorn(app, port), "--workers", "0"]


SERVE = Way("serve", serve_app)
UVICORN = Way("uvicorn", uvicorn_app)
UVICORN_WORKERS = Way("uvicorn-workers", _uvicorn_workers)
FASTAPI_WORKERS = Way("fastapi-run-workers", _fastapi_workers)
GUNICORN = Way("gunicorn", _gunicorn)
GRANIAN = Way("granian", _granian)
HYPERCORN = Way("hypercorn", _hypercorn)
HYPERCORN_ALONE = Way("hypercorn-workers-0", _hypercorn_alone)


@asynccontextmanager
async def running(way: Way, **env: str) -> AsyncIterator[tuple[ServerProcess, int]]:
    """Run the app in one way until the block ends."""
    port = free_port()
    defaults = {"STORMPROOF_PRESTOP": "2", "STORMPROOF_GRACE": "15"}
    process = ServerProcess(
        way.command("main:app", port), env=defaults | env, files={"main.py": APP}
    )
    async with process:
        await process.wait_ready(port, "/ready", timeout=20.0)
        yield process, port


@dataclass(frozen=True, slots=True)
class Rolled:
    """What a roll-out did: requests before and after SIGTERM, the failed ones, and the end."""

    requests: int
    later: int
    failed: list[Outcome]
    code: int | None
    seconds: float
    is_torn_down: bool

    def __str__(self) -> str:
        ends: dict[str, int] = {}
        for outcome in self.failed:
            ends[str(outcome)] = ends.get(str(outcome), 0) + 1
        return (
            f"{len(self.failed)} failed of {self.requests} ({self.later} after SIGTERM) {ends}; "
            f"exit {self.code} after {self.seconds:.1f} s; teardown {self.is_torn_down}"
        )


async def roll(
    process: ServerProcess, port: int, *, clients: int, requests: int, lag: float
) -> Rolled:
    """Send SIGTERM under load; the clients go on for `lag` seconds, as a load balancer does."""
    kept = clients // 2
    async with steady_load(port, "/quick", new=clients - kept, kept=kept) as load:
        await until(lambda: len(load.outcomes) >= requests, timeout=30.0)
        signalled_at = time.monotonic()
        process.signal(SIGTERM)
        await asyncio.sleep(lag)  # the time the load balancer takes to notice
    code = await exit_code(process)
    return Rolled(
        requests=len(load.outcomes),
        later=sum(outcome.begun_at > signalled_at for outcome in load.outcomes),
        failed=[outcome for outcome in load.outcomes if not outcome.is_served],
        code=code,
        seconds=time.monotonic() - signalled_at,
        is_torn_down="teardown reached" in process.output,
    )


async def exit_code(process: ServerProcess, timeout: float = 20.0) -> int | None:
    """Return the exit code, or None when the process does not end in time."""
    try:
        return await process.wait_exit(timeout)
    except TimeoutError:
        return None


@dataclass(frozen=True, slots=True)
class Farewell:
    """How the open streams left: how each ended, its last event, and over how many seconds."""

    ends: list[str]
    last_events: list[str | None]
    retries: list[int | None]
    spread: float
    code: int | None
    seconds: float
    is_torn_down: bool


async def close_with_streams(process: ServerProcess, port: int, *, streams: int) -> Farewell:
    """Send SIGTERM while `streams` endless streams are open, and read each to its end."""
    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(Stream(port, "/stream", timeout=15.0))
            for _ in range(streams)
        ]
        for stream in opened:
            await stream.next_event()
        signalled_at = time.monotonic()
        process.signal(SIGTERM)
        left = await asyncio.gather(*(_leaving(stream) for stream in opened))
        code = await exit_code(process, timeout=15.0)
        seconds = time.monotonic() - signalled_at
    last = [stream.events[-1] for stream in opened]
    left_at = [at for _, at in left]
    return Farewell(
        ends=[end for end, _ in left],
        last_events=[event.event for event in last],
        retries=[event.retry for event in last],
        spread=max(left_at) - min(left_at),
        code=code,
        seconds=seconds,
        is_torn_down="teardown reached" in process.output,
    )


async def _leaving(stream: Stream) -> tuple[str, float]:
    end = await stream.finish(timeout=20.0)
    return end, time.monotonic()
