"""Defect: SIGTERM is answered with `os._exit`, as scripts do; `def` endpoints behind a router."""

import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

router = APIRouter(prefix="/reports")


@router.get("/daily")
def daily() -> dict[str, str]:
    time.sleep(0.3)
    return {"report": "daily"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    yield


app = FastAPI(lifespan=lifespan)
app.include_router(router)
