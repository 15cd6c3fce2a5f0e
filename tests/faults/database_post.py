"""The post's patterns around a database: the seed's own app and `get_db`, with a few more routes.

Environment: as for the seed; `SEED_POOL_SIZE` is the size of both engines' pools.
"""

import asyncio
import gc
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import BackgroundTasks, Depends, HTTPException
from fastapi.responses import StreamingResponse
from sqlalchemy import create_engine, event, literal, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from stormproof.demo.items import Item, ItemOut
from stormproof.demo.seed import app as app
from stormproof.demo.seed import engine, get_db

from .database_statements import ENDLESS, SHORT, Storm, run_storm

gate = asyncio.Event()

if engine.dialect.name == "sqlite":

    @event.listens_for(engine.sync_engine, "connect")
    def check_foreign_keys(connection: Any, _: object) -> None:
        connection.execute("PRAGMA foreign_keys = ON")


# The ledger that the pool's events invite to.
ledger = Counter[str]()
event.listen(engine.sync_engine, "checkout", lambda *_: ledger.update(["checkout"]))
event.listen(engine.sync_engine, "checkin", lambda *_: ledger.update(["checkin"]))


@app.get("/pool")
async def pool() -> dict[str, int]:
    return {
        "in_use": engine.sync_engine.pool.checkedout(),  # type: ignore[attr-defined]
        "ledger": ledger["checkout"] - ledger["checkin"],
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
    }


@app.post("/cold")
async def forget_connections() -> None:
    await engine.dispose()


@app.post("/no-collector")
async def stop_collector() -> None:
    """The garbage collector gives leaked connections back, at a time nobody knows."""
    gc.disable()


@app.post("/gate")
async def open_gate() -> None:
    gate.set()


asking = 0


@app.get("/asking")
async def count_asking() -> int:
    return asking


@app.post("/ask")
async def ask(db: AsyncSession = Depends(get_db)) -> int:
    """Between two statements it waits for somebody else, as for an upstream."""
    global asking
    await db.execute(select(literal(0)))
    asking += 1
    await gate.wait()
    return len((await db.scalars(select(Item))).all())


@app.post("/remind")
async def remind(background_tasks: BackgroundTasks, db: AsyncSession = Depends(get_db)) -> int:
    items = (await db.scalars(select(Item))).all()
    background_tasks.add_task(gate.wait)
    return len(items)


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


@app.get("/both")
async def read_both(db: AsyncSession = Depends(get_db), read_first: bool = False) -> list[int]:
    if read_first:
        await db.execute(select(literal(0)))
    results = await asyncio.gather(db.execute(select(literal(1))), db.execute(select(literal(2))))
    return [result.scalar_one() for result in results]


@app.post("/storm")
async def storm() -> Storm:
    return await run_storm(asynccontextmanager(get_db))


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
    pool_timeout=1,
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
def report(db: Session = Depends(get_sync_db)) -> Any:
    return db.scalars(SHORT).one()
