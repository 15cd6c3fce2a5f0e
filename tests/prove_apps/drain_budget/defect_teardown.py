"""Defect: the lifespan's teardown waits for a consumer that never ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI


async def consume(queue: "asyncio.Queue[str]") -> None:
    while True:
        await queue.get()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    consumer = asyncio.create_task(consume(asyncio.Queue()))
    yield
    await consumer


app = FastAPI(lifespan=lifespan)


@app.get("/version")
async def version() -> dict[str, int]:
    return {"version": 1}
