"""Defect: the confirmation is sent by a task that nobody owns or waits for."""

import asyncio

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
sent: list[str] = []


class Order(BaseModel):
    item: str


async def confirm(item: str) -> None:
    await asyncio.sleep(1.0)
    sent.append(item)


@app.post("/orders", status_code=202)
async def order(order: Order) -> dict[str, str]:
    asyncio.create_task(confirm(order.item))  # noqa: RUF006
    return {"status": "queued"}


@app.get("/sent")
async def count() -> int:
    return len(sent)
