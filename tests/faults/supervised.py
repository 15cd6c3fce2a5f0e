"""The service under a supervisor: what it serves, how it is run, and what its processes are."""

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.harness import ServerProcess, free_port, request, serve_app, until

APP = """
import asyncio, os, time
from fastapi import FastAPI
import stormproof

app = FastAPI()
stormproof.install(app)


@app.get("/pid")
async def pid():
    return os.getpid()


@app.get("/sleep")
async def sleep(seconds: float):
    await asyncio.sleep(seconds)
    return os.getpid()


@app.get("/block")
async def block(seconds: float):
    print("blocked", flush=True)
    time.sleep(seconds)


@app.get("/events")
async def events():
    async def ticks():
        while True:
            yield {"pid": os.getpid()}
            await asyncio.sleep(0.05)
    return stormproof.SSEResponse(ticks())
"""

QUICK = {"STORMPROOF_PRESTOP": "0.3", "STORMPROOF_GRACE": "15"}

START_TIME = 60.0
"""Seconds a start may take on a busy machine: two interpreters with FastAPI, one by one."""


@asynccontextmanager
async def supervised(
    *extra: str, workers: int = 2, app: str = APP, **env: str
) -> AsyncIterator[tuple[ServerProcess, int]]:
    """Run `app` with so many workers, all of which serve when the block begins."""
    port = free_port()
    command = serve_app("main:app", port, "--workers", str(workers), *extra)
    async with ServerProcess(command, env=QUICK | env, files={"main.py": app}) as process:
        await process.wait_ready(port, "/readyz", timeout=START_TIME)
        await until(lambda: len(workers_of(process)) == workers, START_TIME)
        await all_answer(port, workers_of(process))
        yield process, port


def workers_of(process: ServerProcess) -> set[int]:
    """Return the process ids of the workers there are, which end with their parent's group."""
    return {pid for pid in _group(process.pid) if pid != process.pid}


async def all_answer(port: int, pids: set[int]) -> None:
    """Wait until each of the workers has answered a request."""
    seen: set[int] = set()

    async def have_all_answered() -> bool:
        answer = await request(port, "GET", "/pid")
        if answer.status == 200:
            seen.add(int(answer.body))
        return seen >= pids

    await until(have_all_answered, START_TIME, what=f"answers of {pids}")


def is_gone(pid: int) -> bool:
    """Return whether the process has ended; one that nobody has waited for counts as ended."""
    return _state(pid) in ("", "Z")


def _group(leader: int) -> set[int]:
    """Return the running members of a process group."""
    members = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if os.getpgid(int(entry.name)) == leader and not is_gone(int(entry.name)):
                    members.add(int(entry.name))
    return members


def _state(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    match = re.search(r"\) (\w)", stat)
    return match.group(1) if match else ""
