"""An export that reads with the request's session, which is open until the last byte is sent."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

engine = create_async_engine(
    "sqlite+aiosqlite://", poolclass=AsyncAdaptedQueuePool, pool_size=20, max_overflow=20
)
app = FastAPI()


async def session() -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine) as session:
        yield session


@app.get("/export")
async def export(session: Annotated[AsyncSession, Depends(session)]) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield await session.scalar(text("SELECT zeroblob(50000)"))

    return StreamingResponse(body(), media_type="application/octet-stream")


@app.get("/menu")
async def menu() -> list[str]:
    return ["tea", "coffee"]
