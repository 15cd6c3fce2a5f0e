"""The routes of `database_post`, with stormproof's database and its two lines.

Environment: `DATABASE_URL`, and `SEED_POOL_SIZE` as for the post's.
"""

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import literal, select

import stormproof
from stormproof.database import DatabaseSession
from stormproof.demo.items import Base, Item, ItemIn, ItemOut

from .database_statements import ENDLESS, SHORT, Storm, run_storm

gate = asyncio.Event()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield


database = stormproof.Database(
    os.environ["DATABASE_URL"],
    pool_size=int(os.environ.get("SEED_POOL_SIZE", "20")),
    max_overflow=int(os.environ.get("SEED_MAX_OVERFLOW", "10")),
)
app = FastAPI(lifespan=lifespan)
stormproof.install(app, database)

Session = Annotated[DatabaseSession, stormproof.session(database)]


@app.get("/pool")
async def pool() -> dict[str, int]:
    in_use = database.statistics().in_use
    return {
        "in_use": in_use,
        "ledger": in_use,
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
    }


@app.post("/cold")
async def forget_connections() -> None:
    await database.engine.dispose()


@app.post("/no-collector")
async def stop_collector() -> None:
    """The garbage collector gives leaked connections back, at a time nobody knows."""
    gc.disable()


@app.post("/gate")
async def open_gate() -> None:
    gate.set()


@app.get("/items")
async def list_items(session: Session) -> list[ItemOut]:
    items = await session.scalars(select(Item).order_by(Item.id))
    return [ItemOut.model_validate(item) for item in items]


@app.post("/items", status_code=201)
async def create_item(new: ItemIn, session: Session) -> ItemOut:
    item = Item(name=new.name, quantity=new.quantity)
    session.add(item)
    await session.flush()
    return ItemOut.model_validate(item)


@app.get("/items/{id}")
async def get_item(id: int, session: Session) -> ItemOut:
    return ItemOut.model_validate(await session.get_one(Item, id))


asking = 0


@app.get("/asking")
async def count_asking() -> int:
    return asking


@app.post("/ask")
async def ask(session: Session) -> int:
    """Between two statements it waits for somebody else, as for an upstream."""
    global asking
    await session.execute(select(literal(0)))
    await session.release()
    asking += 1
    await gate.wait()
    return len((await session.scalars(select(Item))).all())


@app.post("/remind")
async def remind(background_tasks: BackgroundTasks, session: Session) -> int:
    items = (await session.scalars(select(Item))).all()
    background_tasks.add_task(gate.wait)
    return len(items)


@app.get("/subscribe")
async def subscribe() -> StreamingResponse:
    async def generate() -> AsyncIterator[str]:
        while True:
            async with database.read_session() as session:
                items = (await session.scalars(select(Item))).all()
            yield f"data: {len(items)}\n\n"
            await gate.wait()

    return StreamingResponse(generate(), media_type="text/event-stream")


@app.get("/rows")
async def rows(session: Session) -> AsyncIterator[ItemOut]:
    """The mistake: this session is over before the first item."""
    for item in await session.scalars(select(Item).order_by(Item.id)):
        yield ItemOut.model_validate(item)


@app.get("/own-rows")
async def own_rows() -> AsyncIterator[ItemOut]:
    """The right way: a session of the stream's own."""
    async with database.session() as session:
        for item in await session.scalars(select(Item).order_by(Item.id)):
            yield ItemOut.model_validate(item)


@app.get("/both")
async def read_both(session: Session, read_first: bool = False) -> list[int]:
    if read_first:
        await session.execute(select(literal(0)))
    results = await asyncio.gather(
        session.execute(select(literal(1))), session.execute(select(literal(2)))
    )
    return [result.scalar_one() for result in results]


@app.post("/storm")
async def storm() -> Storm:
    return await run_storm(database.session)


@app.post("/items/{id}/add")
async def add_one(id: int, session: Session) -> dict[str, int]:
    item = await session.get_one(Item, id)
    item.quantity += 1
    await session.flush()
    return {"quantity": item.quantity}


@app.get("/slow", dependencies=[stormproof.route_deadline(0.3)])
async def slow(session: Session) -> None:
    await session.execute(ENDLESS)


@app.get("/report")
async def report(session: Session) -> Any:
    return (await session.scalars(SHORT)).one()
