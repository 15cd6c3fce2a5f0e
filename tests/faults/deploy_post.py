"""A service in the post's manner whose deploys are watched from outside."""

import asyncio
import itertools
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

active_tasks: set[asyncio.Task[None]] = set()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    if active_tasks:  # as the post has it: nothing is ever put in there
        await asyncio.gather(*active_tasks)
    say("teardown reached")


app = FastAPI(lifespan=lifespan)


@app.get("/livez")
@app.get("/startupz")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def generate() -> AsyncIterator[str]:
        for number in itertools.count():
            yield f"data: {number}\n\n"
            await asyncio.sleep(0.05)

    return StreamingResponse(generate(), media_type="text/event-stream")


@app.get("/stuck")
async def stuck() -> None:
    await hang_and_clean_up()


@app.post("/jobs/{number}")
async def start_job(number: int) -> dict[str, str]:
    asyncio.create_task(job(number))  # noqa: RUF006 - "fire and forget"
    return {"status": "accepted"}


async def hang_and_clean_up() -> None:
    """Work that never ends by itself, and whose clean-up takes a moment."""
    say("request began")
    try:
        await asyncio.Event().wait()
    finally:
        say("clean-up began")
        await asyncio.sleep(float(os.environ.get("CLEAN_UP_SECONDS", "0.3")))
        say("clean-up done")


async def job(number: int) -> None:
    """Work of a second."""
    await asyncio.sleep(1.0)
    say(f"job {number} done")


def say(what: str) -> None:
    """Tell the test outside, at once."""
    sys.stdout.write(what + "\n")
    sys.stdout.flush()
