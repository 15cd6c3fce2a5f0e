"""The post's patterns around a database: the seed's own app and `get_db`, with a few more routes.

Environment: as for the seed; `SEED_POOL_SIZE` is the size of both engines' pools.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator

from fastapi import BackgroundTasks, Depends, HTTPException
from fastapi.responses import StreamingResponse
from sqlalchemy import create_engine, event, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from stormproof.demo.items import Item, ItemIn, ItemOut
from stormproof.demo.seed import app as app
from stormproof.demo.seed import engine, get_db

from .database_statements import ENDLESS, SHORT

gate = asyncio.Event()

if engine.dialect.name == "sqlite":

    @event.listens_for(engine.sync_engine, "connect")
    def check_foreign_keys(connection, _):
        connection.execute("PRAGMA foreign_keys = ON")


@app.get("/pool")
async def pool() -> dict[str, int]:
    return {"in_use": engine.pool.checkedout(), "threads": threading.active_count()}


@app.post("/gate")
async def open_gate() -> None:
    gate.set()


@app.post("/items-with-task")
async def create_item_with_task(
    new: ItemIn, background_tasks: BackgroundTasks, db: AsyncSession = Depends(get_db)
) -> dict[str, str]:
    db.add(Item(name=new.name))
    background_tasks.add_task(gate.wait)
    return {"status": "queued"}


@app.get("/subscribe")
async def subscribe(db: AsyncSession = Depends(get_db)) -> StreamingResponse:
    async def generate() -> AsyncIterator[str]:
        while True:
            items = (await db.scalars(select(Item))).all()
            yield f"data: {len(items)}\n\n"
            await gate.wait()

    return StreamingResponse(generate(), media_type="text/event-stream")


@app.get("/rows")
async def rows(
    db: AsyncSession = Depends(get_db, scope="function"),
) -> AsyncIterator[ItemOut]:
    for item in await db.scalars(select(Item).order_by(Item.id)):
        yield ItemOut.model_validate(item)


@app.post("/items/{id}/add")
async def add_one(id: int, db: AsyncSession = Depends(get_db)) -> dict[str, int]:
    item = await db.get_one(Item, id)
    item.quantity += 1
    await db.flush()
    return {"quantity": item.quantity}


@app.get("/slow")
async def slow(db: AsyncSession = Depends(get_db)) -> None:
    try:
        await asyncio.wait_for(db.execute(ENDLESS), timeout=0.3)
    except asyncio.TimeoutError:  # noqa: UP041 - as the post wrote it
        raise HTTPException(408, "Request timeout")  # noqa: B904 - as the post wrote it


# --- The same with `def`, as the post's "use sync for blocking libraries" makes people write it.

sync_engine = create_engine(
    str(engine.url).replace("+aiosqlite", ""),
    pool_size=int(os.environ.get("SEED_POOL_SIZE", "20")),
    max_overflow=int(os.environ.get("SEED_MAX_OVERFLOW", "10")),
    # Not as in the post: by default it waits 30 s before it fails.
    pool_timeout=2,
)


def get_sync_db() -> Iterator[Session]:
    with Session(sync_engine) as session:
        try:
            yield session
            session.commit()
        except Exception:
            session.rollback()
            raise


@app.get("/report")
def report(db: Session = Depends(get_sync_db)) -> int:
    return db.scalars(SHORT).one()
