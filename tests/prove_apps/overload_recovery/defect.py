"""A catalogue of `def` endpoints in eight threads; who comes too many waits, without an end."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = 8
    yield


class Catalogue:
    """The pages of a shop."""

    def __init__(self, app: FastAPI) -> None:
        app.add_api_route("/pages/{number}", self.page, methods=["GET"])

    def page(self, number: int) -> dict[str, int]:
        time.sleep(0.05)
        return {"page": number}


app = FastAPI(lifespan=lifespan)
Catalogue(app)
