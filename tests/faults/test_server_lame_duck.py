"""After SIGTERM a load balancer still sends requests for a while: none of them may fail."""

import time
from collections import Counter
from signal import SIGTERM

import pytest
from fastapi import FastAPI

import stormproof
from tests.faults.in_process import Work, served
from tests.faults.load import steady_load
from tests.faults.test_drain import OURS, SEED, WAYS, Command, running
from tests.harness import Connection, ServerProcess, encode_request, until, uvicorn_app

PRESTOP = 1.2


async def check_no_request_fails_around_the_signal(process: ServerProcess, port: int) -> None:
    """Clients with new and with kept connections, from before SIGTERM until nobody listens."""
    async with steady_load(port, "/async", new=6, kept=6) as load:
        await until(lambda: len(load.outcomes) >= 100)
        signalled_at = time.monotonic()
        process.signal(SIGTERM)
        await process.wait_exit()
    failed = [
        outcome
        for outcome in load.outcomes
        # To be turned away is fine, once the load balancer has had its time to notice.
        if not outcome.is_served
        and not (outcome.is_turned_away and outcome.begun_at > signalled_at + PRESTOP)
    ]
    later = sum(outcome.begun_at > signalled_at for outcome in load.outcomes)
    assert failed == [], (
        f"{len(failed)} of {later} requests after the signal failed: "
        f"{Counter(str(outcome) for outcome in failed)}"
    )
    assert later > 100


@WAYS
async def test_no_request_fails_from_the_signal_to_the_closed_listener(command: Command) -> None:
    """The listener outlives the signal by the lame duck, and closes without a gap."""
    async with running(command, OURS, STORMPROOF_PRESTOP=str(PRESTOP)) as (process, port):
        await check_no_request_fails_around_the_signal(process, port)


async def test_request_behind_the_last_answer_of_a_connection_is_not_begun() -> None:
    """A pipelined request that gets no answer may be sent again: nothing of it was done."""
    work = Work()
    app = FastAPI()
    app.add_api_route("/report", work.run)
    lifecycle = stormproof.install(app, prestop=0.0)
    async with served(app) as port, await Connection.open(port) as connection:
        await connection.send(encode_request("GET", "/report") * 2)
        await until(lambda: work.inside == 1)
        lifecycle.enter(stormproof.Phase.DRAINING)
        work.open_gate()
        first = await connection.read_answer()
        assert (first.status, first.headers["connection"]) == (200, "close")
        second = await connection.read_answer()
        assert (second.status, second.body) == (0, b"")
        assert work.begun == 1


async def test_seed_refuses_requests_from_the_signal_on() -> None:
    """uvicorn closes its listener at once, whatever still sends to it."""
    async with running(uvicorn_app, SEED) as (process, port):
        with pytest.raises(AssertionError, match=r"requests after the signal failed: .*refused"):
            await check_no_request_fails_around_the_signal(process, port)
