"""Prices with retries in the transport and retries around it."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from fastapi import FastAPI, HTTPException, Request


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    async with httpx2.AsyncClient(timeout=1.0) as client:
        yield {"client": client}


app = FastAPI(lifespan=lifespan)


class Quotes:
    def __init__(self, client: httpx2.AsyncClient) -> None:
        self.client = client

    async def once(self) -> Any:
        for attempt in range(3):
            try:
                return (await self.client.get(os.environ["QUOTES_URL"])).json()
            except httpx2.TransportError:
                if attempt == 2:
                    raise
                await asyncio.sleep(0.02)
        return None

    async def surely(self) -> Any:
        for _ in range(3):
            try:
                return await self.once()
            except httpx2.TransportError:
                await asyncio.sleep(0.02)
        raise HTTPException(502, "no quotes")


@app.get("/price")
async def price(request: Request) -> Any:
    return await Quotes(request.state.client).surely()
