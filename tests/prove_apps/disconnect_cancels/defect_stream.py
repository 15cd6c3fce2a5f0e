"""A stream that polls in a thread, which nobody can stop while it sleeps."""

import time
from collections.abc import Iterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()


def poll() -> Iterator[str]:
    for number in range(1000):
        yield f"data: {number}\n\n"
        time.sleep(2.0)


@app.get("/numbers")
def numbers() -> StreamingResponse:
    return StreamingResponse(poll(), media_type="text/event-stream")


@app.get("/menu")
async def menu() -> list[str]:
    return ["tea", "coffee"]
