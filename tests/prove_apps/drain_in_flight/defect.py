"""Defect: the HTTP client is closed at SIGTERM, under the requests that use it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from fastapi import FastAPI


class Prices:
    """Asks the neighbour for prices over one session."""

    def __init__(self) -> None:
        self._url = os.environ["PRICES_URL"]
        self._closing: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._session = aiohttp.ClientSession()
        loop = asyncio.get_running_loop()
        hand_on: Any = signal.getsignal(signal.SIGTERM)

        def close_and_hand_on() -> None:
            self._closing = loop.create_task(self._session.close())
            hand_on(signal.SIGTERM, None)

        loop.add_signal_handler(signal.SIGTERM, close_and_hand_on)

    async def current(self) -> dict[str, int]:
        async with self._session.get(f"{self._url}/price") as answer:
            price: dict[str, int] = await answer.json()
            return price


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    prices.open()
    yield


prices = Prices()
app = FastAPI(lifespan=lifespan)


@app.get("/price")
async def price() -> dict[str, int]:
    return await prices.current()


@app.get("/version")
async def version() -> dict[str, int]:
    return {"version": 1}
