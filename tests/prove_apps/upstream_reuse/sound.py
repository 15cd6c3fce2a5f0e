"""Prices through one httpx2 client for the life of the app, from a dependency."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx2
from fastapi import Depends, FastAPI, HTTPException, Request


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    async with httpx2.AsyncClient(timeout=2.0) as client:
        yield {"client": client}


app = FastAPI(lifespan=lifespan)


async def client(request: Request) -> httpx2.AsyncClient:
    found: httpx2.AsyncClient = request.state.client
    return found


@app.get("/price")
async def price(client: Annotated[httpx2.AsyncClient, Depends(client)]) -> Any:
    try:
        return (await client.get(os.environ["QUOTES_URL"])).json()
    except httpx2.TransportError as error:
        raise HTTPException(502, "no quotes") from error
