"""Subscribers that are kept for ever: each request leaves a task that waits for an event."""

import asyncio
from typing import Annotated

from fastapi import Depends, FastAPI

app = FastAPI()


class Hub:
    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.watchers: set[asyncio.Task[bool]] = set()

    def watch(self) -> int:
        self.watchers.add(asyncio.create_task(self.changed.wait()))
        return len(self.watchers)


hub = Hub()


@app.get("/watchers")
async def watchers(count: Annotated[int, Depends(lambda: 0)]) -> dict[str, int]:
    return {"count": count + hub.watch()}
