"""An event stream that sends when something happens, and nothing happens."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()


class Hub:
    """Those who listen, each with a queue."""

    def __init__(self) -> None:
        self.queues: set[asyncio.Queue[str]] = set()

    async def listen(self) -> AsyncIterator[str]:
        queue: asyncio.Queue[str] = asyncio.Queue(100)
        self.queues.add(queue)
        try:
            yield "data: welcome\n\n"
            while True:
                yield f"data: {await queue.get()}\n\n"
        finally:
            self.queues.discard(queue)


hub = Hub()


@app.get("/events")
async def events() -> StreamingResponse:
    return StreamingResponse(hub.listen(), media_type="text/event-stream")


@app.get("/menu")
async def menu() -> list[str]:
    return ["tea", "coffee"]
