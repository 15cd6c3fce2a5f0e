"""A task that waits on an event which only the task itself knows: the collector takes it."""

import asyncio

from fastapi import FastAPI

app = FastAPI()


async def watch(item: int) -> None:
    changed = asyncio.Event()
    await changed.wait()


@app.get("/items/{item}")
async def read_item(item: int) -> dict[str, int]:
    asyncio.create_task(watch(item))  # noqa: RUF006
    return {"item": item}
