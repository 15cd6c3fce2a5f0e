"""Sound: the HTTP client is closed by the lifespan, after the last request."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from fastapi import FastAPI


class Prices:
    """Asks the neighbour for prices over one session."""

    def __init__(self) -> None:
        self._url = os.environ["PRICES_URL"]

    def open(self) -> None:
        self._session = aiohttp.ClientSession()

    async def close(self) -> None:
        await self._session.close()

    async def current(self) -> dict[str, int]:
        async with self._session.get(f"{self._url}/price") as answer:
            price: dict[str, int] = await answer.json()
            return price


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    prices.open()
    yield
    await prices.close()


prices = Prices()
app = FastAPI(lifespan=lifespan)


@app.get("/price")
async def price() -> dict[str, int]:
    return await prices.current()


@app.get("/version")
async def version() -> dict[str, int]:
    return {"version": 1}
