"""Fifty subscribers that read rows and stall leave a pool of five to the next request."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from fastapi import FastAPI
from sqlalchemy import func, select

import stormproof
from stormproof.demo.items import Base, Item
from tests.harness import Stream, request

from .in_process import served

POOL = 5
SUBSCRIBERS = 50


def paging_app(database: stormproof.Database, gate: asyncio.Event) -> FastAPI:
    app = FastAPI()
    stormproof.install(app, database)

    @app.get("/rows")
    async def rows() -> stormproof.SSEResponse:
        async def generate() -> AsyncIterator[stormproof.ServerEvent]:
            async for item in database.stream(select(Item), page=2):
                yield stormproof.ServerEvent(str(item.id))
                await gate.wait()

        return stormproof.SSEResponse(generate())

    @app.get("/count")
    async def count() -> int:
        async with database.read_session() as session:
            return (await session.execute(select(func.count(Item.id)))).scalar_one()

    return app


async def test_stalled_readers_of_rows_leave_the_pool_free(database_url: str) -> None:
    """Each page was given back before its first row left."""
    database = stormproof.Database(database_url, pool_size=POOL, max_overflow=0)
    gate = asyncio.Event()
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(served(paging_app(database, gate)))
        async with database.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with database.session() as session:
            session.add_all(Item(name=f"bolt {number}") for number in range(5))
        streams = [
            await stack.enter_async_context(Stream(port, "/rows", timeout=30.0))
            for _ in range(SUBSCRIBERS)
        ]
        for stream in streams:
            assert (await stream.next_event()).data == "1"
        assert database.statistics().in_use == 0
        elapsed = []
        for _ in range(20):
            began_at = time.monotonic()
            assert (await request(port, "GET", "/count")).body == b"5"
            elapsed.append(time.monotonic() - began_at)
        assert min(elapsed) <= 0.05
        gate.set()
        for stream in streams:
            assert [(await stream.next_event()).data for _ in range(4)] == ["2", "3", "4", "5"]
            await stream.finish()
