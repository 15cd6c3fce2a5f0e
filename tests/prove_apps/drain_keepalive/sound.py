"""Sound: after SIGTERM each answer says `Connection: close`, and the server stops later."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LEAVING_TAKES = 2.0
leaving = asyncio.Event()


class LeaveTold:
    """Asks clients for the end of their connection once the service is leaving."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and leaving.is_set():
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self.app(scope, receive, told)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    stop: Any = signal.getsignal(signal.SIGTERM)

    def leave() -> None:
        leaving.set()
        loop.call_later(LEAVING_TAKES, stop, signal.SIGTERM, None)

    loop.add_signal_handler(signal.SIGTERM, leave)
    yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(LeaveTold)


@app.get("/items/{id}")
async def item(id: int) -> dict[str, int]:
    return {"id": id}
