"""A service with a pool, a supervisor and a poller, that says when each of them ends."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from sqlalchemy import text

import stormproof
from stormproof.tasks import OnShutdown, UnfinishedTask
from tests.faults.deploy_post import say


class NotedDatabase(stormproof.Database):
    async def close(self) -> None:
        await super().close()
        say(f"pool closed, {self.statistics().in_use} in use")


async def store(unfinished: Sequence[UnfinishedTask]) -> Collection[str]:
    async with database.session() as session:
        await session.execute(text("SELECT 1"))
    for task in unfinished:
        say(f"stored {task.name} {list(task.args)} from {task.origin}")
    return [task.id for task in unfinished]


database = NotedDatabase("sqlite+aiosqlite:///tasks.db")
tasks = stormproof.Tasks(handover=store)


async def write(seconds: float) -> None:
    """Take `seconds`, and use the pool at the very end."""
    await asyncio.sleep(seconds)
    async with database.session() as session:
        await session.execute(text("SELECT 1"))
    say(f"task of {seconds:g} s done")


async def poll() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        say("service stopped")


async def broken() -> None:
    raise ConnectionError("no broker")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    tasks.service(poll)
    yield
    say("teardown reached")


app = FastAPI(lifespan=lifespan)
stormproof.install(app, database, tasks)


@app.post("/tasks/{seconds}")
async def start(seconds: float, on_shutdown: OnShutdown = "finish") -> dict[str, str]:
    handle = tasks.options(on_shutdown=on_shutdown).spawn(write, seconds)
    return {"id": handle.id, "state": handle.state}


@app.post("/background/{seconds}")
async def promise(seconds: float, background_tasks: stormproof.BackgroundTasks) -> dict[str, Any]:
    background_tasks.add_task(write, seconds)
    return {"status": "queued"}


@app.post("/block/{seconds}")
async def block(seconds: float, background_tasks: stormproof.BackgroundTasks) -> dict[str, Any]:
    background_tasks.add_task(time.sleep, seconds)
    return {"status": "queued"}


@app.post("/break")
async def start_broken() -> None:
    tasks.service(broken, backoff=0.001, max_restarts=3)
