"""Reports behind a semaphore: ten at once, and a queue that has no end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI

slots = asyncio.Semaphore(10)


async def slot() -> AsyncIterator[None]:
    async with slots:
        yield


reports = APIRouter(prefix="/reports", dependencies=[Depends(slot)])


async def rows() -> list[int]:
    """Stand for a query of 50 ms."""
    await asyncio.sleep(0.05)
    return [1, 2, 3]


@reports.get("/daily")
async def daily(found: Annotated[list[int], Depends(rows)]) -> dict[str, int]:
    return {"sum": sum(found)}


app = FastAPI()
app.include_router(reports)
