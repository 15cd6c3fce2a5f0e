"""`def` endpoints and `def` dependencies share 40 threads: what still answers when all are busy."""

import asyncio

import pytest
from fastapi import Depends, FastAPI

import stormproof
from tests.faults.in_process import Work, served
from tests.harness import request, until

THREADS = 40
CALLS = 80


def read_settings() -> dict[str, str]:
    return {"status": "ok"}


def post(work: Work) -> FastAPI:
    """Health as project templates write it: an async route with a `def` dependency."""
    app = FastAPI()
    app.add_api_route("/report", work.block)

    @app.get("/livez")
    @app.get("/readyz")
    async def health(settings: dict[str, str] = Depends(read_settings)) -> dict[str, str]:
        return settings

    return app


def ours(work: Work) -> FastAPI:
    app = FastAPI()
    app.add_api_route("/report", work.block)
    stormproof.install(app, prestop=0.0)
    return app


async def check_busy_threads_stop_neither_health_nor_deadlines(port: int, work: Work) -> None:
    """80 `def` calls are open, 40 of them hold every thread there is."""
    async with asyncio.TaskGroup() as group:
        with work.opened_at_the_end():
            calls = [
                group.create_task(request(port, "GET", "/report", timeout=30.0))
                for _ in range(CALLS)
            ]
            await until(lambda: work.inside == THREADS)
            for path in ("/livez", "/readyz"):
                health = await request(port, "GET", path, timeout=1.0)
                assert health.status == 200, f"{path} hangs behind the busy threads"
            late = await request(
                port, "GET", "/report", headers={"X-Request-Timeout": "0.2"}, timeout=3.0
            )
            assert (late.status, late.ended) == (504, "complete"), "the deadline was not kept"
            assert work.inside == THREADS
    assert [call.result().status for call in calls] == [200] * CALLS
    assert work.begun == CALLS, "the caller that was answered 504 got a thread all the same"


async def test_health_and_deadlines_answer_while_every_thread_is_busy() -> None:
    """The health routes use no thread, and a deadline's 504 is sent from outside the handler."""
    work = Work()
    async with served(ours(work)) as port:
        await check_busy_threads_stop_neither_health_nor_deadlines(port, work)


async def test_seed_health_with_a_def_dependency_hangs_behind_busy_threads() -> None:
    """One `def` dependency puts an async health route into the queue for the 40 threads."""
    work = Work()
    async with served(post(work)) as port:
        with pytest.RaisesGroup(
            pytest.RaisesExc(AssertionError, match="/livez hangs behind the busy threads")
        ):
            await check_busy_threads_stop_neither_health_nor_deadlines(port, work)
