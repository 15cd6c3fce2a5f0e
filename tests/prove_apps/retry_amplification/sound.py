"""Prices through aiohttp, which repeats once of its own accord."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from fastapi import FastAPI, HTTPException, Request


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    limit = aiohttp.ClientTimeout(total=1)
    async with aiohttp.ClientSession(timeout=limit) as session:
        yield {"session": session}


app = FastAPI(lifespan=lifespan)


@app.get("/price")
async def price(request: Request) -> Any:
    try:
        async with request.state.session.get(os.environ["QUOTES_URL"]) as answer:
            return await answer.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise HTTPException(502, "no quotes") from error
