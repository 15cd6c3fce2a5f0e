"""Orders from a pool of five connections; whoever finds none waits up to 30 s for one."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

engine = create_async_engine(
    os.environ.get("DATABASE_URL", "postgresql://").replace("://", "+asyncpg://", 1),
    pool_size=5,
    max_overflow=0,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.get("/orders")
async def orders() -> dict[str, int]:
    async with engine.connect() as connection:
        await connection.execute(text("SELECT pg_sleep(0.05)"))
    return {"orders": 7}
