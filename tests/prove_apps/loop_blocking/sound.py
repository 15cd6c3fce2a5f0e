"""The same work without holding the loop: awaited pauses, threads, an asynchronous client."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    async with httpx2.AsyncClient(timeout=5.0) as client:
        yield {"client": client}


app = FastAPI(lifespan=lifespan)


@app.get("/reports")
async def reports() -> dict[str, float]:
    await asyncio.sleep(0.2)
    return {"paused": 0.2}


@app.get("/checksum")
async def checksum() -> str:
    # hashlib gives the GIL back while it works.
    digest = await run_in_threadpool(hashlib.pbkdf2_hmac, "sha256", b"word", b"salt", 200_000)
    return digest.hex()


@app.get("/quote")
async def quote(request: Request) -> dict[str, Any]:
    answer = await request.state.client.get(os.environ["QUOTES_URL"])
    return {"size": len(answer.content)}
