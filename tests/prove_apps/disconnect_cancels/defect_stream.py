"""A stream whose source runs in a task of its own, which goes on when the reader has gone."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()


async def count(lines: asyncio.Queue[bytes]) -> None:
    for number in range(60):
        lines.put_nowait(f"data: {number}\n\n".encode())
        await asyncio.sleep(0.05)


@app.get("/numbers")
async def numbers() -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        lines: asyncio.Queue[bytes] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            work = group.create_task(count(lines))
            try:
                while not (work.done() and lines.empty()):
                    yield await lines.get()
            finally:
                await asyncio.shield(work)

    return StreamingResponse(body(), media_type="text/event-stream")


@app.get("/menu")
async def menu() -> list[str]:
    return ["tea", "coffee"]
