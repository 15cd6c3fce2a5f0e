"""A timeout around a thread frees the limiter's place, but not the thread."""

import asyncio

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.concurrency import run_in_threadpool

import stormproof
from tests.faults.in_process import Work, served
from tests.harness import request, until

THREADS = 40
TIMEOUT = 0.3
CALLS = 60
ROUNDS = 3


def post(work: Work) -> FastAPI:
    """The post's timeout around the post's advice for blocking work."""
    app = FastAPI()

    @app.get("/report")
    async def report() -> dict[str, bool]:
        try:
            return await asyncio.wait_for(run_in_threadpool(work.block), timeout=TIMEOUT)
        except asyncio.TimeoutError:  # noqa: UP041 - as the post wrote it
            raise HTTPException(408, "Request timeout")  # noqa: B904 - as the post wrote it

    return app


def ours(work: Work, *, in_def_endpoint: bool) -> FastAPI:
    app = FastAPI()
    in_time = stormproof.route_deadline(TIMEOUT)
    if in_def_endpoint:
        app.add_api_route("/report", work.block, dependencies=[in_time])
    else:

        @app.get("/report", dependencies=[in_time])
        async def report() -> dict[str, bool]:
            return await run_in_threadpool(work.block)

    stormproof.install(app, prestop=0.0)
    return app


async def check_threads_stay_within_the_limit(port: int, work: Work) -> None:
    """Three waves of 60 callers time out while the work goes on; then the gate opens."""
    with work.opened_at_the_end():
        for _ in range(ROUNDS):
            answers = await asyncio.gather(
                *(request(port, "GET", "/report", timeout=10.0) for _ in range(CALLS))
            )
            assert {answer.status for answer in answers} <= {408, 504}
            assert work.inside <= THREADS, (
                f"{work.inside} threads are at work, the limiter allows {THREADS}"
            )
        assert work.begun == THREADS, "callers whose time was over got a thread"
    await until(lambda: work.inside == 0)
    answer = await request(port, "GET", "/report")
    assert answer.status == 200, "the threads did not come back"


@pytest.mark.parametrize("in_def_endpoint", [False, True], ids=["threadpool", "def"])
async def test_thread_keeps_its_place_until_it_ends(in_def_endpoint: bool) -> None:
    """The answer leaves in time, the thread is counted until it has ended."""
    work = Work()
    async with served(ours(work, in_def_endpoint=in_def_endpoint)) as port:
        await check_threads_stay_within_the_limit(port, work)


async def test_seed_timeout_starts_a_thread_for_each_caller_that_gave_up() -> None:
    """`wait_for` cancels the wait for the thread: its place is free while it runs on."""
    work = Work()
    async with served(post(work)) as port:
        with pytest.raises(AssertionError, match=r"\d\d+ threads are at work, the limiter allows"):
            await check_threads_stay_within_the_limit(port, work)
        await until(lambda: work.inside == 0)
