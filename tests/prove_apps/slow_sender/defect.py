"""An app on plain uvicorn, which waits for a half-sent request without a limit."""

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Order(BaseModel):
    item: str


@app.get("/menu")
async def menu() -> list[str]:
    return ["tea", "coffee"]


@app.post("/orders")
async def order(order: Order) -> Order:
    return order
