"""Orders in two short units of work, with the payment between them; one long query is work."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

engine = create_async_engine(
    os.environ.get("DATABASE_URL", "postgresql://").replace("://", "+asyncpg://", 1),
    pool_pre_ping=True,
    connect_args={"timeout": 2, "command_timeout": 2},
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.exception_handler(OSError)
@app.exception_handler(SQLAlchemyError)
async def not_now(request: Request, error: Exception) -> Response:
    return Response(status_code=503, headers={"Retry-After": "1"})


async def pay() -> None:
    """Stand for a call to a service that takes its time."""
    await asyncio.sleep(0.08)


@app.get("/orders/paid")
async def paid() -> dict[str, Any]:
    async with AsyncSession(engine) as session:
        order = (await session.execute(text("SELECT 7"))).scalar_one()
    await pay()
    async with AsyncSession(engine) as session:
        await session.execute(text("SELECT 8"))
    return {"order": order}


@app.get("/orders/report")
async def report() -> dict[str, Any]:
    async with AsyncSession(engine) as session:
        return {"slept": str((await session.execute(text("SELECT pg_sleep(0.1)"))).scalar_one())}
