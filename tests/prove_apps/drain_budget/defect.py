"""Defect: a `def` endpoint takes a minute in a thread, and nothing can stop it."""

import threading

from fastapi import FastAPI

built = threading.Event()
app = FastAPI()


@app.get("/report")
def report() -> dict[str, str]:
    built.wait(60)
    return {"report": "built"}


@app.get("/version")
async def version() -> dict[str, int]:
    return {"version": 1}
