"""A slow `def` report of which ten may run at once, beside prices with a `def` dependency."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI

app = FastAPI()


def currency() -> str:
    return "EUR"


places = asyncio.Semaphore(10)


async def place() -> AsyncIterator[None]:
    """Wait for a place without a thread."""
    async with places:
        yield


@app.get("/report", dependencies=[Depends(place)])
def report() -> dict[str, str]:
    time.sleep(0.8)
    return {"report": "long"}


@app.get("/prices")
async def prices(currency: Annotated[str, Depends(currency)]) -> dict[str, str]:
    return {"apple": f"3 {currency}"}
