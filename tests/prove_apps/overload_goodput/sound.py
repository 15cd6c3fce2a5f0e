"""Reports behind a semaphore whose queue is as long as can be served in time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, HTTPException

slots = asyncio.Semaphore(10)
MOST_WAITING = 60
waiting = 0


async def slot() -> AsyncIterator[None]:
    global waiting
    if waiting >= MOST_WAITING:
        raise HTTPException(503, headers={"Retry-After": "1"})
    waiting += 1
    try:
        await slots.acquire()
    finally:
        waiting -= 1
    try:
        yield
    finally:
        slots.release()


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
