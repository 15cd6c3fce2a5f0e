"""Sound: a task group of the lifespan owns the confirmations, and waits for them at the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from pydantic import BaseModel

sent: list[str] = []


class Order(BaseModel):
    item: str


async def confirm(item: str) -> None:
    await asyncio.sleep(1.0)
    sent.append(item)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as app.state.work:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=202)
async def order(order: Order, request: Request) -> dict[str, str]:
    request.app.state.work.create_task(confirm(order.item))
    return {"status": "queued"}


@app.get("/sent")
async def count() -> int:
    return len(sent)
