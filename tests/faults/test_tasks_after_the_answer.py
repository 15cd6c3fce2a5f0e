"""Work promised with an answer runs, each piece by itself, whatever its neighbours do."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

import pytest
from fastapi import BackgroundTasks, FastAPI, HTTPException
from fastapi.responses import JSONResponse, Response
from starlette.background import BackgroundTask

import stormproof
from tests.faults.in_process import served
from tests.harness import Connection, request

NAMES = ["first", "second", "third"]


class Jobs:
    """Three jobs; each notes that it began, then does what the test chose."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.let_go = asyncio.Event()
        self.is_endless = False
        self.is_first_broken = False

    async def __call__(self, name: str) -> None:
        self.begun.append(name)
        if self.is_first_broken and name == "first":
            raise RuntimeError("the first job is broken")
        if self.is_endless:
            await self.let_go.wait()


def post(jobs: Jobs) -> FastAPI:
    app = FastAPI()

    @app.post("/jobs")
    async def accept(background_tasks: BackgroundTasks) -> dict[str, str]:
        for name in NAMES:
            background_tasks.add_task(jobs, name)
        return {"status": "queued"}

    @app.post("/jobs-then-error")
    async def accept_then_raise(background_tasks: BackgroundTasks) -> None:
        for name in NAMES:
            background_tasks.add_task(jobs, name)
        raise HTTPException(409, "stored, but it was there already")

    @app.post("/jobs-and-response")
    async def accept_and_respond(background_tasks: BackgroundTasks) -> Response:
        background_tasks.add_task(jobs, "first")
        background_tasks.add_task(jobs, "second")
        return JSONResponse({"status": "queued"}, background=BackgroundTask(jobs, "third"))

    return app


def ours(jobs: Jobs) -> FastAPI:
    app = FastAPI()
    tasks = stormproof.Tasks()

    def spawn(names: Iterable[str]) -> None:
        for name in names:
            tasks.spawn(jobs.__call__, name)

    @app.post("/jobs")
    async def accept() -> dict[str, str]:
        spawn(NAMES)
        return {"status": "queued"}

    @app.post("/jobs-then-error")
    async def accept_then_raise() -> None:
        spawn(NAMES)
        raise HTTPException(409, "stored, but it was there already")

    @app.post("/jobs-and-response")
    async def accept_and_respond() -> Response:
        spawn(NAMES[:2])

        async def third() -> None:
            await jobs("third")

        return JSONResponse({"status": "queued"}, background=BackgroundTask(third))

    stormproof.install(app, tasks, prestop=0.0)
    return app


Check = Callable[[int, Jobs], Awaitable[None]]


async def ticks(count: int = 50) -> None:
    """Let everything that can go on without time go on."""
    for _ in range(count):
        await asyncio.sleep(0)


async def check_endless_job_holds_no_other_up(port: int, jobs: Jobs) -> None:
    jobs.is_endless = True
    try:
        assert (await request(port, "POST", "/jobs")).status == 200
        await ticks()
        assert jobs.begun == NAMES, f"only {jobs.begun} began, the others wait behind it"
    finally:
        jobs.let_go.set()


async def check_broken_job_takes_no_other_down(port: int, jobs: Jobs) -> None:
    jobs.is_first_broken = True
    assert (await request(port, "POST", "/jobs")).status == 200
    await ticks()
    assert jobs.begun == NAMES, f"only {jobs.begun} began, the others were dropped"


async def check_broken_job_leaves_the_connection_open(port: int, jobs: Jobs) -> None:
    jobs.is_first_broken = True
    async with await Connection.open(port) as connection:
        assert (await connection.request("POST", "/jobs")).status == 200
        again = await connection.request("POST", "/jobs")
        assert again.status == 200, "the keep-alive connection was closed after the broken job"


async def check_jobs_run_although_the_answer_is_an_error(port: int, jobs: Jobs) -> None:
    assert (await request(port, "POST", "/jobs-then-error")).status == 409
    await ticks()
    assert jobs.begun == NAMES, f"only {jobs.begun} began after the HTTPException"


async def check_returned_background_drops_no_other(port: int, jobs: Jobs) -> None:
    assert (await request(port, "POST", "/jobs-and-response")).status == 200
    await ticks()
    assert sorted(jobs.begun) == sorted(NAMES), f"only {jobs.begun} began"


SITUATIONS = [
    pytest.param(
        check_endless_job_holds_no_other_up,
        r"only \['first'\] began, the others wait behind it",
        id="one waits for ever",
    ),
    pytest.param(
        check_broken_job_takes_no_other_down,
        r"only \['first'\] began, the others were dropped",
        id="one is broken",
    ),
    pytest.param(
        check_broken_job_leaves_the_connection_open,
        "the keep-alive connection was closed",
        id="one is broken, same connection",
    ),
    pytest.param(
        check_jobs_run_although_the_answer_is_an_error,
        r"only \[\] began after the HTTPException",
        id="HTTPException afterwards",
    ),
    pytest.param(
        check_returned_background_drops_no_other,
        r"only \['third'\] began",
        id="response with a background of its own",
    ),
]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@pytest.mark.parametrize(("check", "_reason"), SITUATIONS)
async def test_each_spawned_task_runs_by_itself(check: Check, _reason: str) -> None:
    """`tasks.spawn` starts each piece of work at once, outside of the request."""
    jobs = Jobs()
    async with served(ours(jobs)) as port:
        await check(port, jobs)


@pytest.mark.parametrize(("check", "reason"), SITUATIONS)
async def test_seed_background_tasks_share_one_fate(check: Check, reason: str) -> None:
    """BackgroundTasks run one after another as the last step of the response they hang on."""
    jobs = Jobs()
    async with served(post(jobs)) as port:
        with pytest.raises(AssertionError, match=reason):
            await check(port, jobs)
