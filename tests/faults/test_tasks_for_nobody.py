"""Callers that gave up must not keep their place: nobody waits for what is done for them."""

import asyncio
from collections.abc import Callable

import pytest
from fastapi import FastAPI

import stormproof
from tests.faults.in_process import Work, served
from tests.harness import request, until

SLOTS = 10
CALLERS = 60
PATIENCE = 0.5


def post(work: Work) -> FastAPI:
    app = FastAPI()
    db_semaphore = asyncio.Semaphore(SLOTS)

    @app.get("/query")
    async def query() -> dict[str, bool]:
        async with db_semaphore:
            return await work.run()

    return app


def shedding(work: Work) -> FastAPI:
    """A limiter whose queue is shorter than its callers' patience."""
    app = FastAPI()
    limit = stormproof.Limiter(SLOTS, max_wait=PATIENCE / 5)

    @app.get("/query")
    async def query() -> dict[str, bool]:
        async with limit.slot():
            return await work.run()

    stormproof.install(app, prestop=0.0)
    return app


def told_the_deadline(work: Work) -> FastAPI:
    """A limiter that would let callers wait for a minute, and callers that say how long."""
    app = FastAPI()
    limit = stormproof.Limiter(SLOTS, max_wait=60.0)

    @app.get("/query")
    async def query() -> dict[str, bool]:
        async with limit.slot():
            return await work.run()

    stormproof.install(app, prestop=0.0)
    return app


async def check_no_work_is_done_for_callers_that_gave_up(port: int, work: Work) -> None:
    """Ten slots are held; fifty more callers give up; then the slots come free."""
    headers = {"X-Request-Timeout": str(PATIENCE)}
    async with asyncio.TaskGroup() as group:
        with work.opened_at_the_end():
            holders = [
                group.create_task(request(port, "GET", "/query", timeout=30.0))
                for _ in range(SLOTS)
            ]
            await until(lambda: work.inside == SLOTS)
            await asyncio.gather(
                *(
                    request(port, "GET", "/query", headers=headers, timeout=PATIENCE * 2)
                    for _ in range(CALLERS - SLOTS)
                )
            )
    assert [holder.result().status for holder in holders] == [200] * SLOTS
    # First come, first served: this one is answered after all that still waited before it.
    assert (await request(port, "GET", "/query")).status == 200
    wasted = work.begun - SLOTS - 1
    assert wasted == 0, f"{wasted} pieces of work were done for callers that had given up"


@pytest.mark.parametrize("build", [shedding, told_the_deadline])
async def test_limiter_does_nothing_for_callers_that_gave_up(
    build: Callable[[Work], FastAPI],
) -> None:
    """Whoever waits too long is turned away, and so gives its place in the queue back."""
    work = Work()
    async with served(build(work)) as port:
        await check_no_work_is_done_for_callers_that_gave_up(port, work)


async def test_seed_semaphore_runs_the_work_of_everybody_who_gave_up() -> None:
    """A semaphore's queue does not know that its callers have left."""
    work = Work()
    async with served(post(work)) as port:
        with pytest.raises(AssertionError, match=r"50 pieces of work were done for callers"):
            await check_no_work_is_done_for_callers_that_gave_up(port, work)
