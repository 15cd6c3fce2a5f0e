"""Notes in SQLite, one health route that asks nothing and one that asks with a short limit."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

folder = tempfile.TemporaryDirectory()
engine = create_async_engine(
    f"sqlite+aiosqlite:///{os.path.join(folder.name, 'notes.db')}", pool_timeout=2
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.get("/notes")
async def notes() -> dict[str, Any]:
    async with engine.connect() as connection:
        return {"notes": (await connection.execute(text("SELECT 7"))).scalar_one()}


@app.get("/health/live")
async def live() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/health/ready")
async def ready() -> dict[str, str]:
    try:
        async with asyncio.timeout(0.4), engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except Exception as error:
        raise HTTPException(503, "no database") from error
    return {"status": "ok"}
