"""A middleware that lets ten requests in, and refuses the others when 0.85 s are over."""

import asyncio

from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class AtMost:
    """Lets `capacity` requests in at once; the others wait, and are refused in the end."""

    def __init__(self, app: ASGIApp, *, capacity: int, wait: float) -> None:
        self.app = app
        self.wait = wait
        self.slots = asyncio.Semaphore(capacity)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.wait):
                await self.slots.acquire()
        except TimeoutError:
            refusal = PlainTextResponse("busy", 503, {"Retry-After": "1"})
            await refusal(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        finally:
            self.slots.release()


app = FastAPI()
app.add_middleware(AtMost, capacity=10, wait=0.85)


@app.get("/prices")
async def prices() -> dict[str, int]:
    await asyncio.sleep(0.05)
    return {"apple": 3}
