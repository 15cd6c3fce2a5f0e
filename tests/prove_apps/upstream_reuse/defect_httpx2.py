"""Prices through an httpx2 client for each request, two calls side by side."""

import asyncio
import os
from typing import Any

import httpx2
from fastapi import FastAPI, HTTPException

app = FastAPI()


@app.get("/prices")
async def prices() -> list[Any]:
    url = os.environ["QUOTES_URL"]
    try:
        async with httpx2.AsyncClient(timeout=2.0) as client:
            return [one.json() for one in await asyncio.gather(client.get(url), client.get(url))]
    except httpx2.TransportError as error:
        raise HTTPException(502, "no quotes") from error
