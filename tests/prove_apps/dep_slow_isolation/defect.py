"""Prices by a blocking client in `def` endpoints, which hold the threads that all share."""

import os
from typing import Annotated, Any

import httpx2
from fastapi import Depends, FastAPI, HTTPException

app = FastAPI()
client = httpx2.Client(timeout=5.0)


class Quotes:
    def __init__(self) -> None:
        self.url = os.environ["QUOTES_URL"]

    def price(self) -> Any:
        try:
            return client.get(self.url).json()["price"]
        except httpx2.TransportError as error:
            raise HTTPException(502, "no quotes") from error


@app.get("/price")
def price(quotes: Annotated[Quotes, Depends(Quotes)]) -> dict[str, Any]:
    return {"price": quotes.price()}


@app.get("/menu")
def menu() -> list[str]:
    return ["tea", "coffee"]
