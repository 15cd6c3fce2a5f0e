"""Defect: a thread goes on after the teardown, and the interpreter waits for it."""

import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI


def poll() -> None:
    while True:
        time.sleep(1)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    threading.Thread(target=poll).start()
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/version")
async def version() -> dict[str, int]:
    return {"version": 1}
