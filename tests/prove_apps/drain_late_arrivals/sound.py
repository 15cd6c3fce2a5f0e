"""Sound: the server hears of SIGTERM only when the load balancer has noticed."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query

NOTICED_AFTER = 2.0


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    stop: Any = signal.getsignal(signal.SIGTERM)
    loop.add_signal_handler(
        signal.SIGTERM, loop.call_later, NOTICED_AFTER, stop, signal.SIGTERM, None
    )
    yield


app = FastAPI(lifespan=lifespan)


async def page(first: Annotated[int, Query(ge=0)] = 0) -> range:
    return range(first, first + 10)


@app.get("/numbers")
async def numbers(page: Annotated[range, Depends(page)]) -> list[int]:
    return list(page)
