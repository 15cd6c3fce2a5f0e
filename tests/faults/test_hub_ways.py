"""A hub's promises in each way of running the service: all events in order, and a polite drain."""

import asyncio
from contextlib import AsyncExitStack
from signal import SIGTERM

import pytest

from tests.faults.ways import (
    GRANIAN,
    GUNICORN,
    HYPERCORN_ALONE,
    SERVE,
    UVICORN,
    UVICORN_WORKERS,
    Way,
    exit_code,
)
from tests.harness import ServerProcess, Stream, free_port

APP = """
import asyncio, os
from contextlib import asynccontextmanager
from fastapi import FastAPI
import stormproof

hub = stormproof.Hub()

async def publish():
    number = 0
    while True:
        for _ in range(5):
            number += 1
            await hub.publish("n", number)
        await asyncio.sleep(0.01)

@asynccontextmanager
async def lifespan(app):
    publishing = asyncio.create_task(publish())
    yield
    publishing.cancel()

app = FastAPI(lifespan=lifespan)
if os.environ.get("BARE") != "1":
    stormproof.install(app, hub)

@app.get("/ready")
async def ready():
    return {"ok": True}

@app.get("/events")
async def events():
    return hub.response(["n"])

app.mount("/sse", hub.asgi(["n"]))
"""


@pytest.mark.storm
@pytest.mark.parametrize("is_bare", [False, True], ids=["installed", "bare"])
@pytest.mark.parametrize(
    "way", [SERVE, UVICORN, UVICORN_WORKERS, GUNICORN, GRANIAN, HYPERCORN_ALONE], ids=str
)
async def test_hub_delivers_all_in_order_and_takes_its_leave(way: Way, is_bare: bool) -> None:
    port = free_port()
    env = {"STORMPROOF_PRESTOP": "0", "STORMPROOF_GRACE": "10", "BARE": str(int(is_bare))}
    process = ServerProcess(way.command("main:app", port), env=env, files={"main.py": APP})
    async with process, AsyncExitStack() as stack:
        await process.wait_ready(port, "/ready", timeout=20.0)
        streams = [
            await stack.enter_async_context(Stream(port, path, timeout=15.0))
            for path in ("/events", "/sse/") * 5
        ]
        for stream in streams:
            while len(stream.events) < 300:
                await stream.next_event()
        if is_bare and way is not SERVE:
            return  # nobody ends an endless stream there
        process.signal(SIGTERM)
        ends = await asyncio.gather(*(stream.finish(timeout=20.0) for stream in streams))
        assert await exit_code(process, timeout=15.0) == 0
    assert ends == ["complete"] * len(streams)
    for stream in streams:
        numbers = [int(event.data) for event in stream.events[1:-1] if event.data]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert stream.events[-1].event == "drain"
