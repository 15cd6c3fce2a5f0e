"""Orders through SQLAlchemy's pool over psycopg, which tests what it hands out."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

engine = create_async_engine(
    os.environ.get("DATABASE_URL", "postgresql://").replace("://", "+psycopg://", 1),
    pool_pre_ping=True,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


def database() -> AsyncEngine:
    return engine


@app.get("/orders/count")
async def count(database: AsyncEngine = Depends(database)) -> dict[str, Any]:
    try:
        async with asyncio.timeout(2), database.connect() as connection:
            return {"orders": (await connection.execute(text("SELECT 7"))).scalar_one()}
    except (SQLAlchemyError, OSError) as error:
        raise HTTPException(503, "no database") from error
