"""Items by async sessions: a request that waits for a connection holds nothing meanwhile."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

engine = create_async_engine(
    os.environ.get("DATABASE_URL", "postgresql://").replace("://", "+asyncpg://", 1)
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


async def get_db() -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine) as session:
        yield session


DB = Annotated[AsyncSession, Depends(get_db)]


async def current_user(db: DB) -> str:
    return str((await db.execute(text("SELECT 'ada'"))).scalar_one())


app = FastAPI(lifespan=lifespan)


@app.get("/items")
async def items(user: Annotated[str, Depends(current_user)], db: DB) -> dict[str, object]:
    counting = text("SELECT count(*) FROM generate_series(1, 100)")
    return {"owner": user, "items": (await db.execute(counting)).scalar_one()}
