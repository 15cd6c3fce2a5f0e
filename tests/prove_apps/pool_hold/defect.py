"""Orders by an asynchronous session that stays open while a payment is waited for."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

engine = create_async_engine(
    os.environ.get("DATABASE_URL", "postgresql://").replace("://", "+asyncpg://", 1)
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


async def pay() -> None:
    """Stand for a call to a service that takes its time."""
    await asyncio.sleep(0.08)


@app.get("/orders/paid")
async def paid() -> dict[str, Any]:
    async with AsyncSession(engine) as session:
        order = (await session.execute(text("SELECT 7"))).scalar_one()
        await pay()
        await session.execute(text("SELECT 8"))
    return {"order": order}
