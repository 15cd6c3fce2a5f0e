"""Defect: lines are sent for ever, from a plain generator in a thread, with no event stream."""

import time
from collections.abc import Iterator

from fastapi import APIRouter, FastAPI
from fastapi.responses import StreamingResponse

router = APIRouter()


def lines() -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f'{{"number": {number}}}\n'
        time.sleep(0.1)


@router.get("/lines")
def follow() -> StreamingResponse:
    return StreamingResponse(lines(), media_type="application/x-ndjson")


app = FastAPI()
app.include_router(router)
