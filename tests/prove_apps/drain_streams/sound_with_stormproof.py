"""Sound: subscribers are told to leave, one after another, with a last event and a final chunk."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI

import stormproof
from stormproof.stream import ServerEvent, SSEResponse

app = FastAPI()
stormproof.install(app, grace=9, prestop=0)


async def numbers() -> AsyncIterator[ServerEvent]:
    number = 0
    while True:
        number += 1
        yield ServerEvent({"number": number}, event="tick")
        await asyncio.sleep(0.2)


@app.get("/ticks")
async def ticks() -> SSEResponse:
    return SSEResponse(numbers())
