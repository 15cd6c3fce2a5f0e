"""The two drains, played on apps that make it hard for them."""

import time
from pathlib import Path
from typing import Any

import pytest

from stormproof.errors import CouldNotProve
from stormproof.prove import Profile, ProveOptions
from stormproof.prove._attack import Attack, Grounds
from stormproof.prove._play import play
from stormproof.prove._promises import FACT
from stormproof.prove._recording import AttackRecord, Route
from stormproof.prove.attacks import drain, drain_streams

pytestmark = pytest.mark.storm

HASTY = Profile(name="hasty", grace=1.5, lag=0.3)

STUBBORN = """
import asyncio, signal
from contextlib import asynccontextmanager
from fastapi import FastAPI

@asynccontextmanager
async def lifespan(app):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield

app = FastAPI(lifespan=lifespan)

@app.get("/a")
async def a():
    await asyncio.sleep(0.05)
    return {}
"""

SHORT_LIVED = """
import asyncio, os
from contextlib import asynccontextmanager
from fastapi import FastAPI

asked = 0
app = FastAPI()

@app.get("/a")
async def a():
    global asked
    asked += 1
    if asked > 20:
        os._exit(7)
    return {}
"""

MIXED = """
import asyncio
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()

@app.get("/a")
async def a():
    await asyncio.sleep(0.05)
    return {}

async def lines():
    for _ in range(4):
        yield b"line\\n"
        await asyncio.sleep(0.1)

@app.get("/s")
async def s():
    return StreamingResponse(lines(), media_type="text/event-stream")
"""

ONCE_ONLY = """
import pathlib
from fastapi import FastAPI

mark = pathlib.Path(__file__).with_suffix(".started")
if mark.exists():
    raise RuntimeError("the last one was not gone")
mark.touch()
app = FastAPI()

@app.get("/a")
async def a():
    return {}

@app.post("/orders")
async def order():
    return {"id": 1}
"""

A = Route(id="GET /a", method="GET", path="/a", url="/a", seconds=0.05)
S = Route(id="GET /s", method="GET", path="/s", url="/s", kind="stream", seconds=0.4)
SILENT = Route(id="GET /n", method="GET", path="/n", url="/n", kind="broken", status=0)


async def _played(attack: Attack, folder: Path, code: str, *routes: Route) -> AttackRecord:
    (folder / "drained_app.py").write_text(code)
    options: dict[str, Any] = {"app": "drained_app:app", "directory": folder}
    record, _ = await play(
        attack,
        options=ProveOptions(**options, profile=HASTY, is_quick=True),
        routes=routes,
        zero=time.monotonic(),
    )
    return record


async def test_an_app_that_ignores_sigterm_is_killed_at_the_end_of_its_grace(
    tmp_path: Path,
) -> None:
    record = await _played(drain.ATTACK, tmp_path, STUBBORN, A)
    assert not record.problem
    assert record.exit is not None
    assert record.exit.is_killed
    assert 1.5 <= record.exit.at - record.marks["signal"] < 4.0


async def test_an_app_that_is_gone_before_sigterm_is_a_problem_and_no_finding(
    tmp_path: Path,
) -> None:
    with pytest.raises(CouldNotProve, match="ended by itself before SIGTERM, with code 7"):
        await _played(drain.ATTACK, tmp_path, SHORT_LIVED, A)


async def test_an_app_that_starts_only_once_leaves_its_promises_unclear_and_the_rest_as_seen(
    tmp_path: Path,
) -> None:
    orders = Route(
        id="POST /orders", method="POST", path="/orders", url="/orders", is_promise=True,
        kept={"path": "/orders/{id}"},
    )  # fmt: skip
    record = await _played(drain.ATTACK, tmp_path, ONCE_ONLY, A, orders)
    assert not record.problem
    assert record.marks["signal"]
    assert record.of_group("steady")
    promises = record.facts[FACT]
    assert promises
    assert all("could not be started again" in promise["unclear"] for promise in promises)


async def test_load_is_on_its_way_at_sigterm_and_goes_on_for_the_lag(tmp_path: Path) -> None:
    record = await _played(drain.ATTACK, tmp_path, MIXED, A, S, SILENT)
    signal = record.marks["signal"]
    open_then = [
        row
        for row in record.of_group("steady", "fresh")
        if row.sent_at and row.last_byte_at and row.sent_at < signal < row.last_byte_at
    ]
    late = [row for row in record.of_group("fresh") if row.intended_at > signal]
    assert len(open_then) >= 10
    assert late
    assert max(row.intended_at for row in late) < signal + HASTY.lag + 0.3
    used_again = [row for row in record.of_group("kept") if row.intended_at > signal]
    assert len(used_again) == 60
    assert [row.route for row in record.of_group("long")] == ["GET /n", "GET /n"]
    others = [row for row in record.requests if row.group != "long"]
    assert all(row.route == "GET /a" for row in others)


async def test_streams_that_end_by_themselves_are_opened_again_until_sigterm(
    tmp_path: Path,
) -> None:
    record = await _played(drain_streams.ATTACK, tmp_path, MIXED, A, S)
    signal = record.marks["signal"]
    streams = record.of_group("stream")
    assert len(streams) > 20
    open_then = [row for row in streams if (row.last_byte_at or 0) > signal]
    assert open_then
    assert all(row.ended == "complete" for row in open_then)
    assert record.facts["sse"] == len(open_then)
    assert record.facts["sse-retry"] == 0


def test_there_is_nothing_to_do_without_routes_of_their_kind() -> None:
    assert drain_streams.ATTACK.fits(Grounds(routes=(A,))) == "the app has no stream"
    assert drain.ATTACK.fits(Grounds(routes=(S,))) == "no route ends by itself"
