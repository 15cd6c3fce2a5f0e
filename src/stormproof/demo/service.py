"""The reference service: the blog post's seven patterns, at its paths, made to hold.

Environment: `DATABASE_URL` (default a SQLite file), `SMTP_URL`, `UPSTREAMS` (URLs, comma
separated), `REDIS_URL` for the live events; what is not named is started on loopback or in
memory.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, HTTPException, Query
from fastapi.responses import Response
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

import stormproof
from stormproof.database import DatabaseSession
from stormproof.demo.items import Base, Item, ItemId, ItemIn, ItemOut
from stormproof.demo.live import hub_from_environment, live_routes, tell_of_item, tick
from stormproof.demo.mail import send_mail
from stormproof.demo.neighbours import Neighbours

COLUMNS = ("id", "name", "quantity")
EVENT_INTERVAL = 0.1


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the tables; the parts are open already, and close only after this has ended."""
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    tasks.service(partial(tick, hub), name="tick", max_restarts=None)
    yield


database = stormproof.Database(
    os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///stormproof-demo.db")
)
neighbours = Neighbours.from_environment()
upstream = stormproof.Upstream(
    timeout=5.0,
    # GETs are sent again when they are refused or slow; both together at most every tenth time.
    retry=stormproof.Retry(3),
    hedge=stormproof.Hedge(),
    budget=stormproof.Budget(0.1),
)
tasks = stormproof.Tasks()
hub = hub_from_environment()
jobs = stormproof.Jobs(database)
query_limit = stormproof.Limiter(10, name="query")

app = FastAPI(title="stormproof demo", lifespan=lifespan)
stormproof.install(
    app,
    neighbours,
    database,
    upstream,
    hub,
    tasks,
    jobs,
    admission=stormproof.Admission(
        rules=[stormproof.AdmissionRule(prefix="/query", limiter=query_limit)]
    ),
)

app.include_router(live_routes(hub))

Session = Annotated[DatabaseSession, stormproof.session(database)]
ReadSession = Annotated[AsyncSession, stormproof.read_session(database)]
Email = Annotated[str, Query(max_length=254, pattern=r"^[^@\s]+@[^@\s]+$")]


@app.get("/")
async def index() -> dict[str, Any]:
    """Say what there is to try."""
    return {
        "service": "stormproof demo",
        "try": sorted([*app.openapi()["paths"], "/live"]),
        "health": ["/livez", "/readyz", "/startupz"],
        "upstreams": list(neighbours.upstream_urls),
    }


@app.get("/sync")
def sync_endpoint() -> dict[str, str]:
    """Answer from a worker thread."""
    return {"type": "sync"}


@app.get("/async")
async def async_endpoint() -> dict[str, str]:
    """Answer from the event loop."""
    return {"type": "async"}


@app.get("/items")
async def list_items(session: ReadSession) -> list[ItemOut]:
    """Return all items."""
    items = await session.scalars(select(Item).order_by(Item.id))
    return [ItemOut.model_validate(item) for item in items]


@app.post("/items", status_code=201)
async def create_item(new: ItemIn, session: Session) -> ItemOut:
    """Store an item: the 201 leaves after the COMMIT, and who looks at /live is told of it."""
    item = Item(name=new.name, quantity=new.quantity)
    session.add(item)
    await session.flush()
    stored = ItemOut.model_validate(item)
    session.on_commit(partial(tasks.spawn, tell_of_item, hub, stored))
    return stored


@app.get("/items/{id}")
async def get_item(id: ItemId, session: ReadSession) -> ItemOut:
    """Return one item."""
    item = await session.get(Item, id)
    if item is None:
        raise HTTPException(404, f"there is no item {id}")
    return ItemOut.model_validate(item)


@jobs.task(retries=10, timeout=10.0)
async def send_hello(email: str) -> None:
    """Send one mail; when the server dies in the middle, the next one sends it."""
    await send_mail(neighbours.smtp_url, to=email, subject="Hello", body="Hello from stormproof.")


@app.post("/send-email")
async def send_email(email: Email, session: Session) -> dict[str, str]:
    """Accept a mail: it is a row by the time of the answer, and sent whatever happens."""
    await send_hello.enqueue(session, email)
    return {"status": "queued"}


@app.get("/outbox")
async def outbox() -> list[dict[str, Any]]:
    """Return the mails that arrived at the demo's own mail sink."""
    mails = neighbours.outbox
    if mails is None:
        raise HTTPException(404, "mails go to SMTP_URL; only the demo's own sink can be read here")
    return [asdict(mail) for mail in mails]


@app.get("/stream")
async def stream(n: Annotated[int | None, Query(ge=0)] = None) -> Response:
    """Count for ever at 10 events a second, or to `n`; at a drain the stream says so and ends."""
    return stormproof.SSEResponse(_count(n))


@app.get("/export")
async def export(accept: Annotated[str, Header()] = "*/*") -> Response:
    """Stream all items as NDJSON, or as CSV where `Accept` asks for text/csv."""
    items = database.stream(select(Item.id, Item.name, Item.quantity).order_by(Item.id))
    format: Literal["csv", "ndjson"] = "csv" if "text/csv" in accept else "ndjson"
    return stormproof.RowsResponse(items, format=format, columns=COLUMNS)


@app.get("/aggregate")
async def aggregate() -> dict[str, Any]:
    """Ask the upstreams at once; one that fails or is late is named, the others are kept."""
    urls = {f"api{n}": url for n, url in enumerate(neighbours.upstream_urls, start=1)}
    gathered = await upstream.gather(urls)
    answers = {name: answer.json() for name, answer in gathered.values.items()}
    if gathered.is_complete:
        return answers
    return {**answers, "missing": {name: str(error) for name, error in gathered.errors.items()}}


@app.get("/query")
async def query(
    q: str, session: ReadSession, ms: Annotated[int, Query(ge=0, le=60_000)] = 50
) -> dict[str, Any]:
    """Count the items whose name contains `q`, for about `ms` milliseconds, ten at once.

    Who gets no slot of `query_limit` never comes here: `install` has it in front of the app.
    """
    if database.engine.dialect.name == "postgresql":
        await session.execute(select(func.pg_sleep(ms / 1000)))
    else:
        await asyncio.sleep(ms / 1000)
    matches = select(func.count()).select_from(Item).where(Item.name.contains(q))
    return {"q": q, "matches": await session.scalar(matches)}


@app.get("/with-timeout", dependencies=[stormproof.route_deadline(5.0)])
async def with_timeout(
    seconds: Annotated[float, Query(ge=0, le=3600)],
) -> dict[str, float]:
    """Take `seconds`; past 5 s the caller has a 504 by then."""
    await asyncio.sleep(seconds)
    return {"waited": seconds}


async def _count(n: int | None) -> AsyncIterator[str]:
    number = 0
    while n is None or number < n:
        yield str(number)
        number += 1
        await asyncio.sleep(EVENT_INTERVAL)
