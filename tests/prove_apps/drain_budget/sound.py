"""Sound: the endpoint that may take a minute gives up after 2 s."""

import asyncio

from fastapi import FastAPI, HTTPException

built = asyncio.Event()
app = FastAPI()


@app.get("/report")
async def report() -> dict[str, str]:
    try:
        async with asyncio.timeout(2):
            await built.wait()
    except TimeoutError:
        raise HTTPException(504, "the report was not built in time") from None
    return {"report": "built"}


@app.get("/version")
async def version() -> dict[str, int]:
    return {"version": 1}
