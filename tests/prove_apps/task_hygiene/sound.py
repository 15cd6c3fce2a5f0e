"""Work that has an owner: background tasks, a task group, a kept task whose end is looked at."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI

log = logging.getLogger(__name__)
kept: set[asyncio.Task[None]] = set()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    if kept:
        await asyncio.wait(kept)


app = FastAPI(lifespan=lifespan)


async def audit(user: str) -> None:
    await asyncio.sleep(0)


async def user(name: str = "ada") -> str:
    await audit(name)
    return name


async def send(order: int) -> None:
    await asyncio.sleep(0.01)


def seen(task: asyncio.Task[None]) -> None:
    kept.discard(task)
    if not task.cancelled() and (error := task.exception()):
        log.error("no mail: %r", error)


@app.get("/orders/{order}")
async def read_order(
    order: int, name: Annotated[str, Depends(user)], background: BackgroundTasks
) -> dict[str, str]:
    background.add_task(send, order)
    task = asyncio.create_task(send(order))
    kept.add(task)
    task.add_done_callback(seen)
    return {"order": str(order), "name": name}


@app.get("/both")
async def both() -> str:
    async with asyncio.TaskGroup() as group:
        group.create_task(send(1))
        group.create_task(send(2))
    return "sent"
