"""Orders through one psycopg connection for the life of the app: it dies once."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from fastapi import Depends, FastAPI, HTTPException, Request

turn = asyncio.Lock()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.connection = await psycopg.AsyncConnection.connect(
        os.environ["DATABASE_URL"], autocommit=True
    )
    yield
    await app.state.connection.close()


app = FastAPI(lifespan=lifespan)


def connection(request: Request) -> psycopg.AsyncConnection[Any]:
    found: psycopg.AsyncConnection[Any] = request.app.state.connection
    return found


@app.get("/orders/count")
async def count(
    connection: psycopg.AsyncConnection[Any] = Depends(connection),
) -> dict[str, Any]:
    try:
        async with asyncio.timeout(2), turn:
            row = await (await connection.execute("SELECT 7")).fetchone()
    except (psycopg.Error, TimeoutError) as error:
        raise HTTPException(503, "no database") from error
    return {"orders": row and row[0]}
