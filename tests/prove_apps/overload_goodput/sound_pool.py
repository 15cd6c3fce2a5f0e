"""Orders from a pool of five connections; whoever waits 0.4 s for one is refused."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import Response
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import create_async_engine

engine = create_async_engine(
    os.environ.get("DATABASE_URL", "postgresql://").replace("://", "+asyncpg://", 1),
    pool_size=5,
    max_overflow=0,
    pool_timeout=0.4,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.exception_handler(exc.TimeoutError)
async def refuse(request: Request, error: Exception) -> Response:
    return Response(status_code=503, headers={"Retry-After": "1"})


@app.get("/orders")
async def orders() -> dict[str, int]:
    async with engine.connect() as connection:
        await connection.execute(text("SELECT pg_sleep(0.05)"))
    return {"orders": 7}
