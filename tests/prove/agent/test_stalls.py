"""Stalls of the loop: who blocked it, for how long, and in which line, in all ways of blocking."""

import asyncio
from pathlib import Path

import pytest

from .stage import Command, plain_uvicorn, proven, uvloop_uvicorn

pytestmark = pytest.mark.storm

APP = """
import asyncio
import random
import re
import threading
import time
from contextlib import asynccontextmanager
from fastapi import Depends, FastAPI, Request

app = FastAPI()
DISORDER = [random.random() for _ in range(1_000_000)]

def innocent():
    return 1

def deep_sleep(seconds):
    time.sleep(seconds)  # SLEEP

@app.get("/sleep/{seconds}")
async def sleep(seconds: float):
    await asyncio.sleep(0)
    deep_sleep(seconds)
    return innocent()

@app.get("/compute")
async def compute():
    until = time.thread_time() + 0.3
    while time.thread_time() < until:  # COMPUTE
        sum(range(100))  # COMPUTE
    return 1

@app.get("/sort")
async def sort():
    sorted(DISORDER)  # SORT
    return 1

@app.get("/pattern")
async def pattern():
    re.match("(a+)+b", "a" * 24)  # PATTERN
    return 1

@app.get("/power")
async def power():
    return (3 ** 4_000_000) % 7 + await nothing()  # POWER

async def nothing():
    return 0

def blocking():
    time.sleep(0.3)  # DEPENDENCY

async def dependency():
    blocking()

@app.get("/depends")
async def depends(d=Depends(dependency)):
    return 1

@app.middleware("http")
async def middleware(request: Request, call_next):
    if request.url.path == "/middle":
        time.sleep(0.3)  # MIDDLEWARE
    return await call_next(request)

@app.get("/middle")
async def middle():
    return 1

@app.get("/thread")
def in_thread():
    time.sleep(0.3)
    return 1

@app.get("/short")
async def short():
    time.sleep(0.02)
    return 1
"""

LOOPS = pytest.mark.parametrize("command", [plain_uvicorn, uvloop_uvicorn])


def lines_marked(word: str) -> set[int]:
    return {n for n, line in enumerate(APP.splitlines(), 1) if line.endswith(f"# {word}")}


@LOOPS
async def test_each_way_of_blocking_is_told_with_route_line_and_request(
    command: Command, tmp_path: Path
) -> None:
    ways = {
        "/sleep/0.3": ("GET /sleep/{seconds}", "SLEEP"),
        "/compute": ("GET /compute", "COMPUTE"),
        "/sort": ("GET /sort", "SORT"),
        "/pattern": ("GET /pattern", "PATTERN"),
        "/power": ("GET /power", "POWER"),
        "/depends": ("GET /depends", "DEPENDENCY"),
        "/middle": ("GET /middle", "MIDDLEWARE"),
    }
    async with proven(APP, tmp_path, command=command) as stage:
        for number, (path, (route, word)) in enumerate(ways.items(), start=1):
            await stage.ask("GET", path, number, timeout=10)
            (stall,) = await stage.hears("stall", route=route)
            assert stall.facts["file"] == str(tmp_path / "app.py")
            assert stall.facts["line"] in lines_marked(word), (path, stall.facts)
            assert 0.1 < stall.facts["seconds"] < 3.0
            assert stall.facts["stack"][-1].startswith(f"{tmp_path}/app.py:{stall.facts['line']}")
            if word != "POWER":  # the core alone sees it, and knows no request
                assert stall.facts["id"] == number
        (slept,) = stage.told("stall", route="GET /sleep/{seconds}")
    assert 0.25 < slept.facts["seconds"] < 0.4
    assert slept.facts["function"] == "deep_sleep"


@LOOPS
async def test_threads_and_many_short_callbacks_are_no_stalls(
    command: Command, tmp_path: Path
) -> None:
    async with proven(APP, tmp_path, command=command) as stage:
        await stage.ask("GET", "/thread", 1)
        asked = [stage.ask("GET", "/short", 10 + n, timeout=10) for n in range(30)]
        assert {answer.status for answer in await asyncio.gather(*asked)} == {200}
        await stage.hears("request", 31)
        await stage.link.census()
        assert not stage.told("stall")


async def test_an_app_that_uses_the_alarm_itself_has_it_and_stalls_are_told_all_the_same(
    tmp_path: Path,
) -> None:
    source = APP.replace(
        "app = FastAPI()",
        """
import signal
rung = []

@asynccontextmanager
async def lifespan(app):
    signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    yield

app = FastAPI(lifespan=lifespan)

@app.get("/alarm")
async def alarm():
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    await asyncio.sleep(0.3)
    return len(rung)
""",
    )
    async with proven(source, tmp_path) as stage:
        assert (await stage.ask("GET", "/alarm")).body == b"1"
        await stage.ask("GET", "/sleep/0.3", 5)
        (stall,) = await stage.hears("stall", route="GET /sleep/{seconds}")
        assert stall.facts["function"] == "deep_sleep"
        assert (await stage.ask("GET", "/alarm")).body == b"2"


async def test_an_app_that_takes_the_alarm_later_gets_it(tmp_path: Path) -> None:
    source = (
        APP
        + """
import signal
rung = []

@app.get("/alarm")
async def alarm():
    signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    await asyncio.sleep(0.3)
    return len(rung)
"""
    )
    async with proven(source, tmp_path) as stage:
        await stage.ask("GET", "/sleep/0.3", 1)
        assert (await stage.ask("GET", "/alarm")).body == b"1"
        await stage.ask("GET", "/sleep/0.3", 2)
        await stage.hears("stall", 2, route="GET /sleep/{seconds}")


async def test_the_link_answers_while_the_loop_is_stuck(tmp_path: Path) -> None:
    async with proven(APP, tmp_path) as stage:
        stuck = asyncio.create_task(stage.ask("GET", "/sleep/1.5", 1))
        await asyncio.sleep(0.3)
        census = await stage.link.census(timeout=0.5)
        assert census["processes"] == 1
        assert not stuck.done()
        await stuck
