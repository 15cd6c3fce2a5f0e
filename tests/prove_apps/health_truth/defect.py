"""Notes in SQLite, and a health route that is a constant."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
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


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
