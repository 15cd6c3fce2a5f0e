"""The reference service as a newcomer meets it: `python -m stormproof demo`, every route."""

import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any

import pytest

from tests.harness import Answer, ServerProcess, Stream, request, until

DEMO = [sys.executable, "-m", "stormproof", "demo"]
FAST = {"STORMPROOF_PRESTOP": "0"}


class Demo:
    """A running demo and the port it has printed."""

    def __init__(self, process: ServerProcess, port: int) -> None:
        self.process = process
        self.port = port

    async def get(self, path: str, **options: Any) -> Answer:
        return await request(self.port, "GET", path, **options)

    async def post(self, path: str, item: object = None) -> Answer:
        body = None if item is None else json.dumps(item).encode()
        headers = {"content-type": "application/json"}
        return await request(self.port, "POST", path, headers=headers, body=body)


async def printed_port(process: ServerProcess) -> int:
    line = await process.wait_for_line(r"serving on http://127\.0\.0\.1:(\d+)", timeout=15.0)
    return int(line[1])


@pytest.fixture(params=["sqlite", "postgres"])
def database_env(request: pytest.FixtureRequest) -> dict[str, str]:
    if request.param == "sqlite":
        return {}
    return {"DATABASE_URL": request.getfixturevalue("postgres_database")}


@pytest.fixture
async def demo(database_env: dict[str, str]) -> AsyncIterator[Demo]:
    async with ServerProcess([*DEMO, "--port", "0"], env=FAST | database_env) as process:
        yield Demo(process, await printed_port(process))


async def test_every_route_of_the_post_answers(demo: Demo) -> None:
    assert json.loads((await demo.get("/sync")).body) == {"type": "sync"}
    assert json.loads((await demo.get("/async")).body) == {"type": "async"}
    assert (await demo.get("/items")).body == b"[]"
    made = await demo.post("/items", {"name": "bolt", "quantity": 3})
    assert (made.status, json.loads(made.body)) == (201, {"id": 1, "name": "bolt", "quantity": 3})
    assert json.loads((await demo.get("/items/1")).body)["name"] == "bolt"
    assert (await demo.get("/items/2")).status == 404
    found = await demo.get("/query?q=ol&ms=10")
    assert json.loads(found.body) == {"q": "ol", "matches": 1}
    assert json.loads((await demo.get("/with-timeout?seconds=0")).body) == {"waited": 0}
    for path in ("/livez", "/readyz", "/startupz", "/", "/docs", "/openapi.json"):
        assert (await demo.get(path)).status == 200


async def test_export_streams_every_item_in_the_format_asked_for(demo: Demo) -> None:
    for number in range(3):
        await demo.post("/items", {"name": f"item {number}", "quantity": number})
    rows = await demo.get("/export")
    assert rows.headers["content-type"].startswith("application/x-ndjson")
    assert [json.loads(line)["name"] for line in rows.body.splitlines()] == [
        "item 0",
        "item 1",
        "item 2",
    ]
    table = await demo.get("/export", headers={"Accept": "text/csv"})
    assert table.headers["content-type"].startswith("text/csv")
    assert table.body.splitlines()[:2] == [b"id,name,quantity", b"1,item 0,0"]


async def test_mail_that_was_accepted_arrives(demo: Demo) -> None:
    assert (await demo.post("/send-email?email=user@example.com")).status == 200

    async def arrived() -> list[str]:
        return [mail["to"] for mail in json.loads((await demo.get("/outbox")).body)]

    assert await until(arrived, timeout=5.0) == ["user@example.com"]
    assert (await demo.post("/send-email?email=nobody")).status == 422


async def test_stream_counts_and_ends_after_n(demo: Demo) -> None:
    async with Stream(demo.port, "/stream?n=3") as stream:
        assert await stream.finish() == "complete"
    assert [event.data for event in stream.events] == ["0", "1", "2"]


async def test_aggregate_keeps_what_came_when_an_upstream_fails(demo: Demo) -> None:
    whole = json.loads((await demo.get("/aggregate")).body)
    assert sorted(whole) == ["api1", "api2", "api3"]
    base = json.loads((await demo.get("/")).body)["upstreams"][0]
    port = int(base.split(":")[2].split("/")[0])
    broken = json.dumps({"error_rate": 1}).encode()
    assert (await request(port, "PUT", "/2", body=broken)).status == 200
    partial = json.loads((await demo.get("/aggregate")).body)
    assert sorted(partial) == ["api1", "api3", "missing"]
    assert "answered 500" in partial["missing"]["api2"]


async def test_route_that_takes_too_long_is_504_in_time(demo: Demo) -> None:
    answer = await demo.get("/with-timeout?seconds=60", headers={"X-Request-Timeout": "0.2"})
    assert (answer.status, json.loads(answer.body)["code"]) == (504, "SP301")
    assert answer.elapsed < 2.0


async def test_sqlite_is_a_file_in_wal_mode(tmp_path: Path) -> None:
    async with ServerProcess([*DEMO, "--port", "0"], env=FAST, folder=tmp_path) as process:
        await printed_port(process)
        assert (tmp_path / "stormproof-demo.db-wal").exists()
        process.signal(SIGTERM)
        assert await process.wait_exit() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stormproof-demo.db"]


async def test_free_port_is_taken_when_the_port_is_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with ServerProcess([*DEMO, "--port", str(port)], env=FAST) as process:
            other = await printed_port(process)
            assert other != port
            assert (await request(other, "GET", "/readyz")).status == 200


async def test_ctrl_c_ends_it_with_exit_code_0() -> None:
    async with ServerProcess([*DEMO, "--port", "0"]) as process:
        await printed_port(process)
        process.signal(SIGINT)
        assert await process.wait_exit() == 0
        assert "Traceback" not in process.output
