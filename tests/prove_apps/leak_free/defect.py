"""A unit of work in a middleware that forgets to close where the answer is an error."""

from fastapi import FastAPI, HTTPException, Request
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

engine = create_async_engine(
    "sqlite+aiosqlite://",
    poolclass=AsyncAdaptedQueuePool,
    pool_size=400,
    pool_timeout=0.5,
)


class UnitOfWork:
    """Opens a connection for each request, and closes it when the answer was good."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.open: dict[int, AsyncConnection] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/livez":
            await self.app(scope, receive, send)
            return
        connection = await engine.connect()
        self.open[id(connection)] = connection
        scope["connection"] = connection
        status = 0

        async def send_noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        await self.app(scope, receive, send_noting)
        if status < 400:
            await self.open.pop(id(connection)).close()


app = FastAPI()
app.add_middleware(UnitOfWork)


@app.get("/livez")
async def livez() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/items/{item}")
async def read_item(item: int, request: Request) -> dict[str, int]:
    found = await request.scope["connection"].scalar(text("SELECT 1"))
    if found is None:
        raise HTTPException(404)
    return {"item": item}
