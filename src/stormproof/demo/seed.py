"""The blog post's service: its seven patterns as the post wrote them, faults and all.

Do not copy from this file, and do not repair it: it is what the other demo service is measured
against. A comment that begins with "Not as in the post" marks each place where today's stack
refuses the post's line, or where the post left a name undefined.

Environment: `DATABASE_URL`, `SMTP_URL`, `UPSTREAMS` (URLs, comma separated), and
`SEED_POOL_SIZE`, `SEED_MAX_OVERFLOW` to make the pool small enough to empty in a test.
"""

import asyncio
import csv
import io
import itertools
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from email.message import EmailMessage
from typing import Annotated
from urllib.parse import urlsplit

import aiosmtplib

# Not as in the post: httpx gets no more releases; httpx2 is the same interface, maintained.
import httpx2 as httpx
from fastapi import BackgroundTasks, Depends, FastAPI, Header, HTTPException, Query
from fastapi.responses import StreamingResponse
from sqlalchemy import func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from stormproof.demo.items import Base, Item, ItemId, ItemIn, ItemOut

SMTP_URL = os.environ.get("SMTP_URL", "smtp://127.0.0.1:1025")
UPSTREAMS = [url.strip() for url in os.environ.get("UPSTREAMS", "").split(",") if url.strip()]

# --- Pattern 7: graceful shutdown (the post shows it last; the app has to exist first)

# Not as in the post: mypy wants to know what is in the set. As in the post, nothing ever is.
active_tasks: set[asyncio.Task[object]] = set()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # Not as in the post: it never says where its tables come from.
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    # Wait for active tasks on shutdown
    if active_tasks:
        await asyncio.gather(*active_tasks)


app = FastAPI(title="seed", lifespan=lifespan)


# --- Understanding async in FastAPI


@app.get("/sync")
def sync_endpoint() -> dict[str, str]:
    return {"type": "sync"}


@app.get("/async")
async def async_endpoint() -> dict[str, str]:
    return {"type": "async"}


# --- Pattern 1: efficient database access

engine = create_async_engine(
    os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///seed.db"),
    pool_size=int(os.environ.get("SEED_POOL_SIZE", "20")),
    max_overflow=int(os.environ.get("SEED_MAX_OVERFLOW", "10")),
    pool_pre_ping=True,
)


async def get_db() -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine) as session:
        try:
            yield session
            await session.commit()
        except Exception:
            await session.rollback()
            raise


@app.get("/items")
async def list_items(db: AsyncSession = Depends(get_db)) -> list[ItemOut]:
    items = await db.scalars(select(Item).order_by(Item.id))
    return [ItemOut.model_validate(item) for item in items]


@app.post("/items", status_code=201)
async def create_item(new: ItemIn, db: AsyncSession = Depends(get_db)) -> ItemOut:
    item = Item(name=new.name, quantity=new.quantity)
    db.add(item)
    await db.flush()
    return ItemOut.model_validate(item)


@app.get("/items/{id}")
async def get_item(id: ItemId, db: AsyncSession = Depends(get_db)) -> ItemOut:
    item = await db.get(Item, id)
    if item is None:
        raise HTTPException(404, "Item not found")
    return ItemOut.model_validate(item)


# --- Pattern 2: background tasks


class EmailService:
    # Not as in the post: it calls an `email_service` and does not say what that is.
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.hostname = parts.hostname
        self.port = parts.port

    async def send(self, email: str) -> None:
        message = EmailMessage()
        message["From"] = "seed@example.com"
        message["To"] = email
        message["Subject"] = "Hello"
        message.set_content("Hello from the seed.")
        await aiosmtplib.send(message, hostname=self.hostname, port=self.port)


email_service = EmailService(SMTP_URL)


@app.post("/send-email")
async def send_email(email: str, background_tasks: BackgroundTasks) -> dict[str, str]:
    background_tasks.add_task(send_email_task, email)
    return {"status": "queued"}


async def send_email_task(email: str) -> None:
    # This runs after response is sent
    await email_service.send(email)


# --- Pattern 3: streaming responses


@app.get("/stream")
async def stream_data(n: int | None = None) -> StreamingResponse:
    async def generate() -> AsyncIterator[str]:
        # Not as in the post: it stops at 100; here `n` says when, and without it never.
        for i in itertools.count() if n is None else range(n):
            yield f"data: {i}\n\n"
            await asyncio.sleep(0.1)

    return StreamingResponse(generate(), media_type="text/event-stream")


# The post has no code for its "large responses": this is its generator with its session.
@app.get("/export")
async def export_items(
    accept: Annotated[str, Header()] = "*/*", db: AsyncSession = Depends(get_db)
) -> StreamingResponse:
    as_csv = "text/csv" in accept

    async def generate() -> AsyncIterator[str]:
        if as_csv:
            yield csv_line(["id", "name", "quantity"])
        items = (await db.scalars(select(Item).order_by(Item.id))).all()
        for item in items:
            if as_csv:
                yield csv_line([item.id, item.name, item.quantity])
            else:
                row = {"id": item.id, "name": item.name, "quantity": item.quantity}
                yield json.dumps(row) + "\n"

    media_type = "text/csv" if as_csv else "application/x-ndjson"
    return StreamingResponse(generate(), media_type=media_type)


def csv_line(cells: Sequence[object]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()


# --- Pattern 4: concurrent requests


@app.get("/aggregate")
async def aggregate_data() -> dict[str, object]:
    async with httpx.AsyncClient() as client:
        # Run all requests concurrently
        # Not as in the post: three addresses under example.com stood here.
        results = await asyncio.gather(*(client.get(url) for url in UPSTREAMS))

    return {f"api{n}": result.json() for n, result in enumerate(results, start=1)}


# --- Pattern 5: rate limiting with semaphores


class Database:
    # Not as in the post: it calls a `database` and does not say what that is; and SQLAlchemy
    # refuses plain strings as statements, so the text travels as a value.
    async def execute(self, query: str, ms: int) -> str:
        async with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                await connection.execute(select(func.pg_sleep(ms / 1000)))
            else:
                await asyncio.sleep(ms / 1000)
            return (await connection.execute(select(literal(query)))).scalar_one()


database = Database()

# Allow max 10 concurrent database operations
db_semaphore = asyncio.Semaphore(10)


async def rate_limited_query(query: str, ms: int) -> str:
    async with db_semaphore:
        return await database.execute(query, ms)


@app.get("/query")
async def query_endpoint(q: str, ms: Annotated[int, Query(ge=0)] = 50) -> dict[str, str]:
    return {"result": await rate_limited_query(q, ms)}


# --- Pattern 6: timeout handling


async def slow_operation(seconds: float) -> dict[str, float]:
    # Not as in the post: it leaves the operation to the reader.
    await asyncio.sleep(seconds)
    return {"waited": seconds}


@app.get("/with-timeout")
async def endpoint_with_timeout(seconds: float) -> dict[str, float]:
    try:
        result = await asyncio.wait_for(slow_operation(seconds), timeout=5.0)
        return result  # noqa: RET504 - as the post wrote it
    except asyncio.TimeoutError:  # noqa: UP041 - as the post wrote it
        raise HTTPException(408, "Request timeout")  # noqa: B904 - as the post wrote it


# --- Health: the post has none; these are the constants a project template writes.


@app.get("/livez")
async def livez() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/readyz")
async def readyz() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/startupz")
async def startupz() -> dict[str, str]:
    return {"status": "ok"}
