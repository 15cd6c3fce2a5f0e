"""Prices by an asynchronous client, a few at once: nobody else waits for them."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from fastapi import FastAPI, HTTPException, Request

few = asyncio.Semaphore(20)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    async with httpx2.AsyncClient(timeout=5.0) as client:
        yield {"client": client}


app = FastAPI(lifespan=lifespan)


@app.get("/price")
async def price(request: Request) -> dict[str, Any]:
    if few.locked():
        raise HTTPException(503, "too many ask for prices", headers={"Retry-After": "1"})
    async with few:
        try:
            answer = await request.state.client.get(os.environ["QUOTES_URL"])
        except httpx2.TransportError as error:
            raise HTTPException(502, "no quotes") from error
        return {"price": answer.json()["price"]}


@app.get("/menu")
def menu() -> list[str]:
    return ["tea", "coffee"]
