"""Sound: supervised tasks, which the drain waits for."""

import asyncio

from fastapi import FastAPI
from pydantic import BaseModel

import stormproof

app = FastAPI()
tasks = stormproof.Tasks()
stormproof.install(app, tasks, grace=9, prestop=0)
sent: list[str] = []


class Order(BaseModel):
    item: str


async def confirm(item: str) -> None:
    await asyncio.sleep(1.0)
    sent.append(item)


@app.post("/orders", status_code=202)
async def order(order: Order) -> dict[str, str]:
    tasks.spawn(confirm, order.item)
    return {"status": "queued"}


@app.get("/sent")
async def count() -> int:
    return len(sent)
