"""A middleware that lets ten requests in, lets forty wait, and refuses the others at once."""

import asyncio

from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class AtMost:
    """Lets `capacity` requests in at once; some more wait, the others are refused."""

    def __init__(self, app: ASGIApp, *, capacity: int, queue: int) -> None:
        self.app = app
        self.queue = queue
        self.waiting = 0
        self.slots = asyncio.Semaphore(capacity)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.waiting >= self.queue:
            refusal = PlainTextResponse("busy", 503, {"Retry-After": "1"})
            await refusal(scope, receive, send)
            return
        self.waiting += 1
        try:
            await self.slots.acquire()
        finally:
            self.waiting -= 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.slots.release()


app = FastAPI()
app.add_middleware(AtMost, capacity=10, queue=40)


@app.get("/prices")
async def prices() -> dict[str, int]:
    await asyncio.sleep(0.05)
    return {"apple": 3}
