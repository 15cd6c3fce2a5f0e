"""Hits counted by a GET in an asynchronous session that a middleware commits, and ignores."""

import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

folder = tempfile.TemporaryDirectory()
engine = create_async_engine(f"sqlite+aiosqlite:///{os.path.join(folder.name, 'hits.db')}")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE hits (path TEXT)"))
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.middleware("http")
async def with_session(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    async with AsyncSession(engine) as session:
        request.state.session = session
        response = await call_next(request)
        try:
            await session.commit()
        except SQLAlchemyError:
            await session.rollback()
        return response


@app.get("/hit")
async def hit(request: Request) -> dict[str, str]:
    await request.state.session.execute(text("INSERT INTO hits VALUES ('/hit')"))
    return {"counted": "yes"}
