"""What sync sessions do as callers grow: the template's shape, with the usual get_db and with ours.

Run it with `python bench/sync_session.py`; it takes about two minutes. Each design is a uvicorn
process of its own on one PostgreSQL, with a pool of 5 + 10; 10, 30 and 100 callers ask it for
some seconds each. Printed: answers of 200 a second, the other answers by status (0: none in
time), and what of its peak a design keeps with 100 callers, round by round. The usual get_db
comes last and once: after its collapse its threads stay stuck.
"""

# ruff: noqa: T201, D103

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SECONDS = float(os.environ.get("BENCH_SECONDS", "4"))
SWEEP = (10, 30, 100)
ROUNDS = 3
OURS = ("sync_session", "sync_session, commit in anyio's 40")
USUAL = ("get_db", "get_db, 15 threads")


def build(design: str, url: str) -> Any:
    import anyio.to_thread
    from fastapi import Depends, FastAPI
    from sqlalchemy import create_engine, text
    from sqlalchemy.orm import Session, sessionmaker

    import stormproof

    database = stormproof.Database(url, pool_size=5, max_overflow=10)
    plain_url = url.replace("+asyncpg", "+psycopg")
    maker = sessionmaker(create_engine(plain_url, pool_size=5, max_overflow=10))

    def get_db() -> Iterator[Session]:
        with maker() as session:
            yield session

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        if design == "get_db, 15 threads":
            anyio.to_thread.current_default_thread_limiter().total_tokens = 15
        if design == "sync_session, commit in anyio's 40":
            async with database.sync_session():
                pass
            database._sync._threads = anyio.to_thread.current_default_thread_limiter()
        yield

    app = FastAPI(lifespan=lifespan)
    ours = stormproof.sync_session(database)
    if design.startswith("sync_session"):
        stormproof.install(app, database)
    db = Annotated[Session, ours if design.startswith("sync_session") else Depends(get_db)]

    def current_user(session: db) -> str:
        return str(session.execute(text("SELECT 'ada'")).scalar_one())

    @app.get("/items")
    def items(session: db, user: Annotated[str, Depends(current_user)]) -> dict[str, Any]:
        # The pool bounds the rate, not the CPU, of which others on the machine take their part.
        session.execute(text("SELECT pg_sleep(0.1)"))
        number = session.execute(text("SELECT count(*) FROM generate_series(1, 100)")).scalar_one()
        rows = session.execute(text("SELECT generate_series(1, 20)")).scalars().all()
        return {"owner": user, "items": number, "rows": list(rows)}

    @app.get("/health")
    async def health() -> bool:
        return True

    return app


async def swept(port: int, callers: int) -> tuple[float, Counter[int]]:
    """Return answers of 200 a second and all statuses, for so many callers in a closed loop."""
    from tests.harness import Connection

    statuses: Counter[int] = Counter()
    over_at = time.monotonic() + SECONDS

    async def caller() -> None:
        while time.monotonic() < over_at:
            async with await Connection.open(port) as connection:
                while time.monotonic() < over_at:
                    answer = await connection.request("GET", "/items", timeout=SECONDS)
                    statuses[answer.status] += 1
                    if answer.status == 0 or answer.headers.get("connection") == "close":
                        break

    began_at = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return statuses[200] / (time.monotonic() - began_at), statuses


async def main() -> None:
    from tests.harness import ServerProcess, free_port, running_postgres, uvicorn_app

    with running_postgres() as url:
        async with AsyncExitStack() as stack:
            ports = {}
            for design in (*OURS, *USUAL):
                ports[design] = port = free_port()
                command = uvicorn_app("bench.sync_session:app", port, "--log-level", "warning")
                process = ServerProcess(command, env={"BENCH_DESIGN": design, "BENCH_URL": url})
                await stack.enter_async_context(process)
                await process.wait_ready(port, "/health", timeout=60)
                await swept_once(port)
            for _ in range(ROUNDS):
                await measured({design: ports[design] for design in OURS})
            await measured({design: ports[design] for design in USUAL})


async def measured(ports: dict[str, int]) -> None:
    """Sweep these designs in turns, and print what they answered."""
    rates: dict[str, list[float]] = {design: [] for design in ports}
    for callers in SWEEP:
        for design, port in ports.items():
            rate, statuses = await swept(port, callers)
            rates[design].append(rate)
            others = {status: n for status, n in statuses.items() if status != 200}
            print(f"{callers:4} callers  {design:36} {rate:7.0f}/s  {others or ''}")
    for design, found in rates.items():
        print(f"      {design}: {found[-1] / max(found):.2f} of its peak with {SWEEP[-1]} callers")


async def swept_once(port: int) -> None:
    from tests.harness import request

    for _ in range(20):
        await request(port, "GET", "/items")


if "BENCH_DESIGN" in os.environ:
    app = build(os.environ["BENCH_DESIGN"], os.environ["BENCH_URL"])
elif __name__ == "__main__":
    asyncio.run(main())
