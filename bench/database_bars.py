"""Connections given back early: a pool of 5 beside slow awaits, subscribers and background tasks.

Run it with `python bench/database_bars.py`; it starts a PostgreSQL of its own, as the tests do,
and takes about a minute. Each figure is taken on stormproof's `Database` and on the seed's
`get_db`, one after the other in the same run, over real sockets.
"""

# ruff: noqa: T201

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).parents[1]))

from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from tests.faults.in_process import served
from tests.harness import Stream, request
from tests.harness.postgres import running_postgres

import stormproof
from stormproof.database import DatabaseSession

POOL = 5
ONE = text("SELECT 1")


def events(read: Callable[[], Awaitable[None]]) -> StreamingResponse:
    """Return a stream that reads rows once a second."""

    async def generate() -> AsyncIterator[str]:
        while True:
            await read()
            yield "data: 1\n\n"
            await asyncio.sleep(1)

    return StreamingResponse(generate(), media_type="text/event-stream")


def ours(url: str) -> FastAPI:
    """The routes on stormproof's database."""
    app = FastAPI()
    database = stormproof.Database(url, pool_size=POOL, max_overflow=0, max_wait=30)
    stormproof.install(app, database, prestop=0, grace=5)
    session = Annotated[DatabaseSession, stormproof.session(database)]

    @app.get("/ask")
    async def ask(session: session) -> None:
        await session.execute(ONE)
        await session.release()
        await asyncio.sleep(1)
        await session.execute(ONE)

    @app.get("/subscribe")
    async def subscribe() -> StreamingResponse:
        async def read() -> None:
            async with database.read_session() as own:
                await own.execute(ONE)

        return events(read)

    @app.get("/remind")
    async def remind(later: BackgroundTasks, session: session) -> None:
        await session.execute(ONE)
        later.add_task(asyncio.sleep, 3)

    @app.get("/next")
    async def following(session: session) -> None:
        await session.execute(ONE)

    return app


def seeds(url: str) -> FastAPI:
    """The same routes on the seed's `get_db`."""
    os.environ |= {"DATABASE_URL": url, "SEED_POOL_SIZE": str(POOL), "SEED_MAX_OVERFLOW": "0"}
    from stormproof.demo.seed import get_db

    app = FastAPI()
    session = Annotated[AsyncSession, Depends(get_db)]

    @app.get("/ask")
    async def ask(db: session) -> None:
        await db.execute(ONE)
        await asyncio.sleep(1)
        await db.execute(ONE)

    @app.get("/subscribe")
    async def subscribe(db: session) -> StreamingResponse:
        async def read() -> None:
            await db.execute(ONE)

        return events(read)

    @app.get("/remind")
    async def remind(later: BackgroundTasks, db: session) -> None:
        await db.execute(ONE)
        later.add_task(asyncio.sleep, 3)

    @app.get("/next")
    async def following(db: session) -> None:
        await db.execute(ONE)

    return app


async def ask_all(port: int) -> str:
    """100 callers of a route that waits 1 s for an upstream between two statements."""
    began = time.monotonic()
    calls = (request(port, "GET", "/ask", timeout=40.0) for _ in range(100))
    statuses = Counter(answer.status for answer in await asyncio.gather(*calls))
    return f"{time.monotonic() - began:.2f} s, statuses {dict(statuses)}"


async def next_beside_tasks(port: int) -> str:
    """The request after 5 answered ones, each with a background task of 3 s."""
    await request(port, "GET", "/next", timeout=40.0)
    await asyncio.gather(*(request(port, "GET", "/remind", timeout=40.0) for _ in range(POOL)))
    return await next_request(port)


async def next_beside_streams(port: int) -> str:
    """The next requests beside 50 subscribers that read rows."""
    async with AsyncExitStack() as stack:
        for _ in range(50):
            await stack.enter_async_context(Stream(port, "/subscribe", timeout=10.0))
        return await next_request(port)


async def next_request(port: int) -> str:
    """Return how long 20 requests took, one after another; one that took 5 s ends it."""
    took: list[float] = []
    for _ in range(20):
        answer = await request(port, "GET", "/next", timeout=5.0)
        took.append(answer.elapsed)
        if answer.status != 200:
            return f"no answer within {answer.elapsed:.0f} s"
    took.sort()
    return f"median {took[10] * 1000:.0f} ms, longest {took[-1] * 1000:.0f} ms (20 requests)"


async def main(url: str) -> None:
    """Print each figure for both."""
    for title, measure in (
        ("100 callers, 1 s upstream, pool 5", ask_all),
        ("next request beside 5 background tasks", next_beside_tasks),
        ("next request beside 50 subscribers", next_beside_streams),
    ):
        for name, app in (("stormproof", ours(url)), ("seed", seeds(url))):
            async with served(app) as port:
                print(f"{title}: {name:10} {await measure(port)}", flush=True)


if __name__ == "__main__":
    with running_postgres() as own:
        asyncio.run(main(own))
