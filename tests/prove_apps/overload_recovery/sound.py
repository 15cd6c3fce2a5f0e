"""A catalogue of `def` endpoints in eight threads; who would wait too long is refused."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import Depends, FastAPI, HTTPException


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = 8
    yield


class Catalogue:
    """The pages of a shop; at most `most` are asked for at once."""

    def __init__(self, app: FastAPI, *, most: int) -> None:
        self.most = most
        self.here = 0
        app.add_api_route(
            "/pages/{number}", self.page, methods=["GET"], dependencies=[Depends(self.place)]
        )

    async def place(self) -> AsyncIterator[None]:
        if self.here >= self.most:
            raise HTTPException(503, headers={"Retry-After": "1"})
        self.here += 1
        try:
            yield
        finally:
            self.here -= 1

    def page(self, number: int) -> dict[str, int]:
        time.sleep(0.05)
        return {"page": number}


app = FastAPI(lifespan=lifespan)
Catalogue(app, most=40)
