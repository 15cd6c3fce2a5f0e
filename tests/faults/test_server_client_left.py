"""A plain endpoint is not cancelled when its client leaves: what ends it, if anything does."""

import asyncio

import pytest
from fastapi import FastAPI

import stormproof
from tests.faults.in_process import served
from tests.harness import Connection, encode_request, until

DEADLINE = 0.2


class Report:
    """An endpoint of a minute that tells when it began and when it was over."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.is_over = False

    async def __call__(self) -> None:
        self.begun.set()
        try:
            await asyncio.sleep(60.0)
        finally:
            self.is_over = True


def post(report: Report) -> FastAPI:
    app = FastAPI()
    app.add_api_route("/report", report.__call__)
    return app


def ours(report: Report) -> FastAPI:
    app = FastAPI()
    app.add_api_route("/report", report.__call__)
    stormproof.install(app, deadline=DEADLINE, prestop=0.0)
    return app


async def check_work_for_a_client_that_left_ends(port: int, report: Report) -> None:
    """The client resets its connection once the endpoint runs."""
    async with await Connection.open(port) as connection:
        await connection.send(encode_request("GET", "/report"))
        await asyncio.wait_for(report.begun.wait(), 5.0)
        connection.abort()
    try:
        await until(lambda: report.is_over, DEADLINE * 5)
    except TimeoutError:
        raise AssertionError("the endpoint runs on for a client that has left") from None


async def test_endpoint_whose_client_left_ends_at_its_deadline() -> None:
    """No server tells a plain endpoint that its client left, but its deadline comes anyway."""
    report = Report()
    async with served(ours(report)) as port:
        await check_work_for_a_client_that_left_ends(port, report)


async def test_seed_endpoint_runs_on_for_a_client_that_left() -> None:
    """Nothing cancels a plain `async def` endpoint."""
    report = Report()
    async with served(post(report)) as port:
        with pytest.raises(AssertionError, match="runs on for a client that has left"):
            await check_work_for_a_client_that_left_ends(port, report)
        _cancel_endpoints()


def _cancel_endpoints() -> None:
    """End what the check has shown to go on, so that the test leaves nothing behind."""
    for task in asyncio.all_tasks():
        if "run_asgi" in repr(task.get_coro()):
            task.cancel()
