"""Sound: what is not done at SIGTERM is handed over to a table, to be done by the next process."""

import asyncio
from collections.abc import Collection, Sequence

from fastapi import FastAPI
from pydantic import BaseModel

import stormproof
from stormproof.tasks import UnfinishedTask

left_over: list[object] = []


async def keep(unfinished: Sequence[UnfinishedTask]) -> Collection[str]:
    left_over.extend(task.args for task in unfinished)
    return [task.id for task in unfinished]


app = FastAPI()
tasks = stormproof.Tasks(handover=keep)
stormproof.install(app, tasks, grace=9, prestop=0)
sent: list[str] = []


class Order(BaseModel):
    item: str


async def confirm(item: str) -> None:
    await asyncio.sleep(1.0)
    sent.append(item)


@app.post("/orders", status_code=202)
async def order(order: Order) -> dict[str, str]:
    tasks.options(on_shutdown="handover").spawn(confirm, order.item)
    return {"status": "queued"}


@app.get("/sent")
async def count() -> int:
    return len(sent)
