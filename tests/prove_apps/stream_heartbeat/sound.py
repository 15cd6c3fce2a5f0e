"""The same event streams: one with a comment every 10 s, one by FastAPI's own event stream."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse

app = FastAPI()


async def listen() -> AsyncIterator[str]:
    queue: asyncio.Queue[str] = asyncio.Queue(100)
    yield "data: welcome\n\n"
    while True:
        try:
            async with asyncio.timeout(10.0):
                yield f"data: {await queue.get()}\n\n"
        except TimeoutError:
            yield ": nothing new\n\n"


@app.get("/events")
async def events() -> StreamingResponse:
    return StreamingResponse(listen(), media_type="text/event-stream")


@app.get("/native", response_class=EventSourceResponse)
async def native() -> AsyncIterator[str]:
    queue: asyncio.Queue[str] = asyncio.Queue(100)
    yield "welcome"
    while True:
        yield await queue.get()


@app.get("/menu")
async def menu() -> list[str]:
    return ["tea", "coffee"]
