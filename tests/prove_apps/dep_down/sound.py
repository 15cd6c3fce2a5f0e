"""Orders from PostgreSQL through asyncpg's pool: without a connection, 503 with Retry-After."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from fastapi import APIRouter, FastAPI, Request, Response

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


@app.exception_handler(OSError)
@app.exception_handler(asyncpg.PostgresConnectionError)
@app.exception_handler(asyncpg.InterfaceError)
async def not_now(request: Request, error: Exception) -> Response:
    return Response(status_code=503, headers={"Retry-After": "1"})
