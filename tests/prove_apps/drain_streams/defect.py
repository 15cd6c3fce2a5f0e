"""Defect: an event stream without an end keeps the server until it is killed."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.sse import EventSourceResponse, ServerSentEvent

app = FastAPI()


@app.get("/ticks", response_class=EventSourceResponse)
async def ticks() -> AsyncIterator[ServerSentEvent]:
    number = 0
    while True:
        number += 1
        yield ServerSentEvent(data={"number": number}, event="tick")
        await asyncio.sleep(0.2)


@app.get("/version")
async def version() -> dict[str, int]:
    return {"version": 1}
