"""The attacks by clients who leave, stop reading, or send half, on an app with a bit of each."""

import time
from collections import Counter
from pathlib import Path

import pytest

from stormproof.prove import ProveOptions
from stormproof.prove._attack import Attack
from stormproof.prove._play import play
from stormproof.prove._recording import AttackRecord, Route
from stormproof.prove.attacks import clients, patience

pytestmark = pytest.mark.storm

MIXED = """
import asyncio
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

app = FastAPI()

@app.get("/quick")
async def quick():
    return {}

@app.get("/slow")
async def slow():
    await asyncio.sleep(1.0)
    return {}

@app.get("/large")
async def large():
    return "x" * 300_000

@app.post("/order")
async def order(order: dict):
    return order

async def lines():
    while True:
        yield b"data: 1\\n\\n"
        await asyncio.sleep(0.5)

@app.get("/stream")
async def stream():
    return StreamingResponse(lines(), media_type="text/event-stream")
"""

QUICK = Route(id="GET /quick", method="GET", path="/quick", url="/quick", seconds=0.002)
SLOW = Route(id="GET /slow", method="GET", path="/slow", url="/slow", seconds=1.0)
LARGE = Route(id="GET /large", method="GET", path="/large", url="/large", seconds=0.005)
ORDER = Route(
    id="POST /order", method="POST", path="/order", url="/order", seconds=0.003, body='{"a": 1}'
)
STREAM = Route(id="GET /stream", method="GET", path="/stream", url="/stream", kind="endless")
BROKEN = Route(id="GET /gone", method="GET", path="/gone", url="/gone", kind="broken", status=404)


async def _played(attack: Attack, folder: Path, *routes: Route) -> AttackRecord:
    (folder / "rudely_used_app.py").write_text(MIXED)
    record, _ = await play(
        attack,
        options=ProveOptions(app="rudely_used_app:app", directory=folder, is_quick=True),
        routes=routes,
        zero=time.monotonic(),
    )
    return record


def _ends(record: AttackRecord, group: str) -> Counter[tuple[str, str]]:
    return Counter((row.route, row.ended) for row in record.of_group(group))


async def test_bad_clients_do_their_worst_while_others_are_served(tmp_path: Path) -> None:
    record = await _played(clients.ATTACK, tmp_path, QUICK, SLOW, LARGE, ORDER, STREAM)
    assert not record.problem
    assert _ends(record, "left")[SLOW.id, "left"] == 3
    assert _ends(record, "left")[STREAM.id, "left"] == 8
    assert record.facts["stalled-routes"] == [STREAM.id, LARGE.id]
    assert _ends(record, "stalled")[STREAM.id, "left"] == 8
    assert _ends(record, "half-body") == {(ORDER.id, "timeout"): 10}
    assert len(record.of_group("half-head")) == 20
    assert {row.route for row in record.of_group("burst")} == {QUICK.id, LARGE.id, ORDER.id}
    others = record.of_group("others")
    assert {row.route for row in others} == {QUICK.id, LARGE.id}
    assert sum(row.is_good for row in others) > 0.95 * len(others)
    moments = ("calm", "leaving", "left", "stalled", "stalled-ended", "half-sent", "over")
    assert [record.marks[name] for name in moments] == sorted(record.marks[n] for n in moments)
    assert all(record.facts[f"census-{name}"]["fds"] for name in ("warm", "half-sent", "after"))


async def test_app_without_a_route_that_answers_is_attacked_all_the_same(tmp_path: Path) -> None:
    record = await _played(clients.ATTACK, tmp_path, BROKEN)
    assert not record.problem
    assert record.facts["stalled-routes"] == []
    assert not record.of_group("left")
    assert {row.status for row in record.of_group("others")} == {404}


async def test_patience_lasts_longer_than_any_limit_it_is_judged_by(tmp_path: Path) -> None:
    record = await _played(patience.ATTACK, tmp_path, QUICK, ORDER, STREAM)
    assert not record.problem
    (stream,) = record.facts["streams"]
    assert stream["route"] == STREAM.id
    assert 0.4 < stream["silence"] < 5.0
    assert stream["pieces"] > 20
    assert not stream["is_over"]
    halves = record.of_group("half-head", "half-body")
    assert Counter(row.ended for row in halves) == {"timeout": 6}
    assert all((row.latency or 0.0) > 20.0 for row in halves)
