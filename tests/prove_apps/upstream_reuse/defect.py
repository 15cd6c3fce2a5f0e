"""Prices through an aiohttp session for each request, from a dependency."""

import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

import aiohttp
from fastapi import Depends, FastAPI, HTTPException

app = FastAPI()


async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        yield session


@app.get("/price")
async def price(session: Annotated[aiohttp.ClientSession, Depends(session)]) -> Any:
    try:
        async with session.get(os.environ["QUOTES_URL"]) as answer:
            return await answer.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise HTTPException(502, "no quotes") from error
