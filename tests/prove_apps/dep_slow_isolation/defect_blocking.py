"""Prices by a blocking client in an `async def` endpoint: the event loop waits for them."""

import os
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from fastapi import FastAPI, HTTPException

app = FastAPI()


@app.get("/price")
async def price() -> dict[str, Any]:
    try:
        with urlopen(os.environ["QUOTES_URL"], timeout=5.0) as answer:
            return {"size": len(answer.read())}
    except URLError as error:
        raise HTTPException(502, "no quotes") from error


@app.get("/menu")
async def menu() -> list[str]:
    return ["tea", "coffee"]
