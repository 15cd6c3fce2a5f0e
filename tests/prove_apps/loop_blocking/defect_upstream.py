"""Quotes by a blocking client of `httpx2` in an `async def` endpoint."""

import os
from typing import Any

import httpx2
from fastapi import FastAPI

app = FastAPI()


@app.get("/quote")
async def quote() -> dict[str, Any]:
    with httpx2.Client(timeout=5.0) as client:
        answer = client.get(os.environ["QUOTES_URL"])
    return {"size": len(answer.content)}


@app.get("/menu")
async def menu() -> list[str]:
    return ["tea", "coffee"]
