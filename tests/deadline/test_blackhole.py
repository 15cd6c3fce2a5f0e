"""The answer leaves in time although the database has fallen silent in the middle of a query.

Cancel-and-await does not bound that: each driver wants to tell the server of the cancellation,
and waits for it on the same dead network.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import aiosqlite
import asyncpg
import psycopg
import pytest
from fastapi import FastAPI, Request

from stormproof.deadline import DeadlineMiddleware, limit_request
from tests.harness import until
from tests.harness.peer import scripted_server

from .test_socket import get, serving

ALLOWED = 0.3
SLACK = 2.0  # seconds; for a busy machine: the figures of a quiet one are in the how-to
MARK = b"pg_sleep"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

Query = Callable[[str], Awaitable[object]]


@asynccontextmanager
async def network_that_dies(url: str) -> AsyncIterator[str]:
    """Give the URL of a proxy that passes on nothing more once a query was sent through it."""
    at = urlsplit(url.replace("+asyncpg", ""))
    is_dead = False

    async def forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        nonlocal is_dead
        with suppress(ConnectionError):
            while data := await source.read(65536):
                if is_dead:
                    await asyncio.Event().wait()
                sink.write(data)
                is_dead = MARK in data

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if is_dead:
            await asyncio.Event().wait()
        to_server = await asyncio.open_connection(at.hostname, at.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(forward(reader, to_server[1]))
                group.create_task(forward(to_server[0], writer))
        finally:
            to_server[1].close()

    async with scripted_server(pass_on) as port:
        yield at._replace(netloc=f"{at.username}:{at.password}@127.0.0.1:{port}").geturl()


async def with_asyncpg(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SELECT pg_sleep(60)")
    finally:
        await connection.close()


async def with_asyncpg_pool(url: str) -> None:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
        await pool.execute("SELECT pg_sleep(60)")


async def with_psycopg(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute("SELECT pg_sleep(60)")


async def swallowing(url: str) -> None:
    connection = await asyncpg.connect(url)
    while not connection.is_closed():
        with suppress(asyncio.CancelledError, asyncpg.PostgresError, OSError):
            await connection.execute("SELECT pg_sleep(60)")


def app_with(query: Query, url: str) -> DeadlineMiddleware:
    app = FastAPI()

    @app.get("/rows")
    async def rows(request: Request) -> None:
        limit_request(request.scope, ALLOWED)
        with suppress(Exception):  # what it says when the network is closed at last
            await query(url)

    return DeadlineMiddleware(app)


async def answer_time(port: int) -> float:
    """Return the seconds until the whole 504 was read."""
    started_at = asyncio.get_running_loop().time()
    raw = await get(port, "/rows")
    assert raw.startswith(b"HTTP/1.1 504 "), raw
    return asyncio.get_running_loop().time() - started_at


@pytest.mark.parametrize("query", [with_asyncpg, with_asyncpg_pool, with_psycopg, swallowing])
async def test_the_504_leaves_in_time_while_the_network_is_dead(
    query: Query, postgres_database: str
) -> None:
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(AsyncExitStack())
        url = await network.enter_async_context(network_that_dies(postgres_database))
        app = app_with(query, url)
        port = await stack.enter_async_context(serving(app, "httptools"))
        await stack.enter_async_context(asyncio.timeout(60))
        took = await answer_time(port)
        assert ALLOWED - 0.01 <= took < ALLOWED + SLACK
        await network.aclose()  # only now the driver has somebody to talk to, or nobody
        await until(lambda: app.statistics().overdue == 0)


async def test_the_504_leaves_in_time_while_sqlite_computes(tmp_path: Path) -> None:
    """aiosqlite works in a thread of its own, and a cancelled call waits for it."""
    async with aiosqlite.connect(tmp_path / "endless.db") as connection:

        async def query(_: str) -> None:
            async with connection.execute(ENDLESS) as cursor:
                await cursor.fetchall()

        app = app_with(query, "")
        async with serving(app, "httptools") as port:
            took = await answer_time(port)
            assert ALLOWED - 0.01 <= took < ALLOWED + SLACK
            await connection.interrupt()
            await until(lambda: app.statistics().overdue == 0)
