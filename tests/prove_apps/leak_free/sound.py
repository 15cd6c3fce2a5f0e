"""The same unit of work, closed whatever the answer is, with pools and threads that stay warm."""

import asyncio

from fastapi import FastAPI, Request
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool
from starlette.types import ASGIApp, Receive, Scope, Send

engine = create_async_engine(
    "sqlite+aiosqlite://", poolclass=AsyncAdaptedQueuePool, pool_size=10, max_overflow=10
)
sync_engine = create_engine("sqlite://")


class UnitOfWork:
    """Opens a connection for each request, and closes it at its end."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/livez":
            await self.app(scope, receive, send)
            return
        async with engine.connect() as connection:
            scope["connection"] = connection
            await self.app(scope, receive, send)


app = FastAPI()
app.add_middleware(UnitOfWork)


@app.get("/livez")
async def livez() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/items/{item}")
async def read_item(item: int, request: Request) -> dict[str, int]:
    await request.scope["connection"].execute(text("SELECT 1"))
    return {"item": item}


@app.get("/sum")
def total() -> dict[str, int]:
    with sync_engine.connect() as connection:
        return {"total": connection.execute(text("SELECT 2")).scalar_one()}


@app.get("/both")
async def both() -> list[str]:
    return list(await asyncio.gather(asyncio.to_thread(str, 1), asyncio.to_thread(str, 2)))
