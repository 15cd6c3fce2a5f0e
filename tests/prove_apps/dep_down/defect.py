"""Orders from PostgreSQL through asyncpg's pool: what the driver raises becomes a 500."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from fastapi import APIRouter, FastAPI, Request

router = APIRouter(prefix="/orders")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    url = os.environ["DATABASE_URL"]
    async with asyncpg.create_pool(url, min_size=1, timeout=2, command_timeout=2) as pool:
        app.state.pool = pool
        yield


@router.get("/count")
async def count(request: Request) -> dict[str, Any]:
    return {"orders": await request.app.state.pool.fetchval("SELECT 7")}


app = FastAPI(lifespan=lifespan)
app.include_router(router)
