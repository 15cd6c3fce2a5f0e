"""An export whose source does not wait for its reader: all of it stands in a queue."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()
PIECES = 400


class Export:
    """Reads everything as fast as it can."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue()

    async def read(self) -> None:
        for number in range(PIECES):
            self.pieces.put_nowait(number.to_bytes(8, "big") * 8192)
            await asyncio.sleep(0.001)

    async def body(self) -> AsyncIterator[bytes]:
        reading = asyncio.create_task(self.read())
        try:
            for _ in range(PIECES):
                yield await self.pieces.get()
        finally:
            reading.cancel()
            await asyncio.wait([reading])


@app.get("/export")
async def export() -> StreamingResponse:
    return StreamingResponse(Export().body(), media_type="text/csv")


@app.get("/menu")
async def menu() -> list[str]:
    return ["tea", "coffee"]
