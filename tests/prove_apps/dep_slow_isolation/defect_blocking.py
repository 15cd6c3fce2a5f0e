"""Prices by a blocking client in an `async def` endpoint: the event loop waits for them."""

import os
from typing import Any

import httpx2
from fastapi import FastAPI, HTTPException

app = FastAPI()
client = httpx2.Client(timeout=2.0)


@app.get("/price")
async def price() -> Any:
    try:
        return client.get(os.environ["QUOTES_URL"]).json()
    except httpx2.TransportError as error:
        raise HTTPException(502, "no quotes") from error


@app.get("/menu")
async def menu() -> list[str]:
    return ["tea", "coffee"]
