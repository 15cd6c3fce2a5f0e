"""Admission in a real server: the client that leaves, the drain of slots, and its order."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

import stormproof
from stormproof.errors import InvalidSetting
from tests.faults.in_process import Work, served
from tests.harness import request, until


async def test_nobody_works_for_a_client_that_has_left() -> None:
    """Ten leave while they wait and one while it is served: nothing is begun, or goes on."""
    app, work, limiter = FastAPI(), Work(), stormproof.Limiter(1, max_wait=30.0)

    @app.get("/query")
    async def query() -> dict[str, bool]:
        return await work.run()

    stormproof.install(app, prestop=0.0, admission=limiter)
    async with served(app) as port:
        with work.opened_at_the_end():
            clients = [asyncio.create_task(request(port, "GET", "/query"))]
            await until(lambda: work.inside == 1)
            clients += [asyncio.create_task(request(port, "GET", "/query")) for _ in range(10)]
            await until(lambda: limiter.statistics().waiting == 10)
            for client in reversed(clients):
                client.cancel()
            await asyncio.wait(clients)
            await until(lambda: limiter.statistics().in_use == 0)
            assert (work.begun, work.inside) == (1, 0)
        assert (await request(port, "GET", "/query")).status == 200


async def test_a_handler_in_a_thread_is_not_cancelled_and_keeps_its_slot() -> None:
    app, work, limiter = FastAPI(), Work(), stormproof.Limiter(1)

    @app.get("/query")
    def query() -> dict[str, bool]:
        return work.block()

    stormproof.install(app, prestop=0.0, admission=limiter)
    async with served(app) as port:
        with work.opened_at_the_end():
            await request(port, "GET", "/query", timeout=0.3)
            await asyncio.sleep(0.2)
            assert (work.inside, limiter.statistics().in_use) == (1, 1)
        await until(lambda: limiter.statistics().in_use == 0)


async def test_an_export_holds_its_slot_until_the_client_has_it_all_or_leaves() -> None:
    app, limiter = FastAPI(), stormproof.Limiter(1, max_wait=0)
    go = asyncio.Event()

    async def rows() -> AsyncIterator[bytes]:
        yield b"1\n"
        await go.wait()
        yield b"2\n"

    @app.get("/export")
    async def export() -> StreamingResponse:
        return StreamingResponse(rows(), media_type="text/csv")

    stormproof.install(app, prestop=0.0, admission=limiter)
    async with served(app) as port:
        await request(port, "GET", "/export", timeout=0.3)
        await until(lambda: limiter.statistics().in_use == 0)
        reading = asyncio.create_task(request(port, "GET", "/export"))
        await until(lambda: limiter.statistics().in_use == 1)
        assert (await request(port, "GET", "/export")).status == 503
        go.set()
        assert (await reading).status == 200
        assert limiter.statistics().in_use == 0


def test_a_refusal_comes_before_dependencies_and_is_told_in_the_openapi() -> None:
    app, asked = FastAPI(), list[str]()

    @app.post("/orders")
    async def order(body: dict[str, int]) -> None:
        asked.append("order")

    limiter = stormproof.Limiter(1, max_wait=0)
    lifecycle = stormproof.install(app, admission=stormproof.Admission(limiter))
    assert limiter.events is lifecycle.events
    limiter.close()
    with TestClient(app) as client:
        answer = client.post("/orders", content=b"not json")
        assert client.get("/livez").status_code == 200
    assert (answer.status_code, answer.json()["code"], asked) == (503, "SP201", [])
    assert answer.headers["retry-after"] == "1"
    assert "503" in app.openapi()["paths"]["/orders"]["post"]["responses"]


def test_admission_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="admission must be"):
        stormproof.install(FastAPI(), admission=10)  # type: ignore[arg-type]


def test_a_slow_handler_is_served_whole_by_the_test_client() -> None:
    """Its `receive` says that the client has left when the response is complete, not before."""
    app = FastAPI()

    @app.get("/slow")
    async def slow() -> dict[str, bool]:
        await asyncio.sleep(0.2)
        return {"done": True}

    stormproof.install(app, admission=stormproof.Limiter(1))
    with TestClient(app) as client:
        answers = [client.get("/slow") for _ in range(2)]
    assert [answer.json() for answer in answers] == [{"done": True}] * 2
