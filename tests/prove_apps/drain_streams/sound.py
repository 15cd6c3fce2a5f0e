"""Sound: each event stream ends by age, below the grace, and says when to come back."""

import asyncio
import random
import time
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.sse import EventSourceResponse, ServerSentEvent

LONGEST = 4.0

app = FastAPI()


@app.get("/ticks", response_class=EventSourceResponse)
async def ticks() -> AsyncIterator[ServerSentEvent]:
    number = 0
    yield ServerSentEvent(retry=random.randint(1_000, 5_000))
    ends_at = time.monotonic() + LONGEST
    while time.monotonic() < ends_at:
        number += 1
        yield ServerSentEvent(data={"number": number}, event="tick")
        await asyncio.sleep(0.2)


@app.get("/version")
async def version() -> dict[str, int]:
    return {"version": 1}
