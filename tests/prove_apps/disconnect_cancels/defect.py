"""A report that is built to its end, whoever is still there to read it."""

import asyncio

from fastapi import FastAPI

app = FastAPI()


@app.get("/report")
async def report() -> dict[str, int]:
    rows = 0
    for _ in range(15):
        await asyncio.sleep(0.1)
        rows += 100
    return {"rows": rows}


@app.get("/menu")
async def menu() -> list[str]:
    return ["tea", "coffee"]
