"""The same export: its reader sets the pace, and each page has a short session of its own."""

from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

engine = create_async_engine(
    "sqlite+aiosqlite://", poolclass=AsyncAdaptedQueuePool, pool_size=20, max_overflow=20
)
app = FastAPI()


async def page() -> bytes:
    async with AsyncSession(engine) as session:
        return bytes(await session.scalar(text("SELECT zeroblob(50000)")))


@app.get("/export")
async def export() -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(400):
            yield await page()

    return StreamingResponse(body(), media_type="application/octet-stream")


@app.get("/menu")
async def menu() -> list[str]:
    return ["tea", "coffee"]
