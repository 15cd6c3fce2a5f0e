"""A middleware that cancels the work when the client has left, and a stream that just ends."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class StopWhenLeft:
    """Cancels an endpoint that only reads when its client leaves."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        left = asyncio.create_task(until_left(receive))

        async def wait_left() -> Message:
            await asyncio.wait([left])
            return {"type": "http.disconnect"}

        work = asyncio.create_task(self.app(scope, wait_left, send))
        try:
            await asyncio.wait([work, left], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, left):
                if not task.done():
                    task.cancel()
            await asyncio.wait([work, left])
        if not work.cancelled():
            work.result()


async def until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


app = FastAPI()
app.add_middleware(StopWhenLeft)


@app.get("/report")
async def report() -> dict[str, int]:
    rows = 0
    for _ in range(15):
        await asyncio.sleep(0.1)
        rows += 100
    return {"rows": rows}


@app.get("/numbers")
async def numbers() -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        for number in range(100_000):
            yield f"data: {number}\n\n".encode()
            await asyncio.sleep(0.05)

    return StreamingResponse(body(), media_type="text/event-stream")
