"""Orders through SQLAlchemy over psycopg: tried again after a pause that no caller waits for."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

engine = create_async_engine(
    os.environ.get("DATABASE_URL", "postgresql://").replace("://", "+psycopg://", 1),
    pool_pre_ping=True,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


async def _count() -> Any:
    async with asyncio.timeout(2), engine.connect() as connection:
        return (await connection.execute(text("SELECT 7"))).scalar_one()


@app.get("/orders/count")
async def count() -> dict[str, Any]:
    try:
        return {"orders": await _count()}
    except (SQLAlchemyError, OSError):
        await asyncio.sleep(4)
    try:
        return {"orders": await _count()}
    except (SQLAlchemyError, OSError) as error:
        raise HTTPException(503, "no database") from error
