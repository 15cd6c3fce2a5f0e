"""The same app on `stormproof serve`, which limits the head, with a limit of its own on bodies."""

import asyncio

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_LIMIT = 5.0


class LimitBody:
    """Ends a request whose body does not come in time."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self.app(scope, receive, send)
            return
        messages: list[Message] = []
        try:
            async with asyncio.timeout(BODY_LIMIT):
                while not messages or messages[-1].get("more_body"):
                    messages.append(await receive())
        except TimeoutError:
            headers = [(b"connection", b"close"), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 408, "headers": headers})
            await send({"type": "http.response.body"})
            return

        async def receive_again() -> Message:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, receive_again, send)


app = FastAPI()
app.add_middleware(LimitBody)


class Order(BaseModel):
    item: str


@app.get("/menu")
async def menu() -> list[str]:
    return ["tea", "coffee"]


@app.post("/orders")
async def order(order: Order) -> Order:
    return order
