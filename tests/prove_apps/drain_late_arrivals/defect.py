"""Defect: nothing is done about SIGTERM, so the server closes its listener at once."""

from typing import Annotated

from fastapi import Depends, FastAPI, Query

app = FastAPI()


async def page(first: Annotated[int, Query(ge=0)] = 0) -> range:
    return range(first, first + 10)


@app.get("/numbers")
async def numbers(page: Annotated[range, Depends(page)]) -> list[int]:
    return list(page)
