"""What sync sessions do as callers grow: the template's shape, with the usual get_db and with ours.

Run it with `python bench/sync_session.py`; it takes about two minutes. Each design is a uvicorn
process of its own on one PostgreSQL, with a pool of 5 + 10; 10, 40 and 100 callers ask it in turns
for some seconds each, round after round, since a busy machine moves one rate by 20 %. Printed:
answers of 200 a second, the server's CPU for each answer, the other answers by status (0: none in
time), and what of its round's peak a design keeps with 100 callers. The usual get_db comes last
and once: after its collapse its threads stay stuck.
"""

# ruff: noqa: T201, D103

import asyncio
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))
SWEEP = (10, 40, 100)
ROUNDS = 8
OURS = "sync_session"
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
        yield

    app = FastAPI(lifespan=lifespan)
    ours = stormproof.sync_session(database)
    if design == OURS:
        stormproof.install(app, database)
    db = Annotated[Session, ours if design == OURS else Depends(get_db)]

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
        for design in (OURS, *USUAL):
            port = free_port()
            command = uvicorn_app("bench.sync_session:app", port, "--log-level", "warning")
            env = {"BENCH_DESIGN": design, "BENCH_URL": url}
            async with ServerProcess(command, env=env) as process:
                await process.wait_ready(port, "/health", timeout=60)
                await swept_once(port)
                await measured(design, port, process.pid)


async def measured(design: str, port: int, pid: int) -> None:
    """Sweep one design, round after round, and print what it answered."""
    kept: list[float] = []
    for _ in range(ROUNDS if design == OURS else 1):
        rates: list[float] = []
        for callers in SWEEP:
            before = cpu_seconds(pid)
            rate, statuses = await swept(port, callers)
            rates.append(rate)
            spent = (cpu_seconds(pid) - before) / statuses.total() * 1000
            others = {status: n for status, n in statuses.items() if status != 200}
            print(f"{callers:4} callers  {design:18} {rate:4.0f}/s  {spent:.1f} ms  {others or ''}")
        kept.append(rates[-1] / max(rates))
    found = ", ".join(f"{share:.2f}" for share in sorted(kept))
    print(f"{design}: of its peak with {SWEEP[-1]} callers {statistics.median(kept):.2f} ({found})")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def swept_once(port: int) -> None:
    from tests.harness import request

    for _ in range(20):
        await request(port, "GET", "/items")


if "BENCH_DESIGN" in os.environ:
    app = build(os.environ["BENCH_DESIGN"], os.environ["BENCH_URL"])
elif __name__ == "__main__":
    asyncio.run(main())
