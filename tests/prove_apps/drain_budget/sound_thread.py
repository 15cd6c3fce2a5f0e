"""Sound: the teardown stops the thread and waits for its end."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

stop = threading.Event()


def poll() -> None:
    while not stop.wait(1):
        pass


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    poller = threading.Thread(target=poll)
    poller.start()
    yield
    stop.set()
    await asyncio.to_thread(poller.join)


app = FastAPI(lifespan=lifespan)


@app.get("/version")
async def version() -> dict[str, int]:
    return {"version": 1}
