"""Cancelled wherever they wait, enqueueing and opening leave nothing half done."""

import asyncio
from contextlib import suppress

from sqlalchemy import text

from stormproof.database import Database

from .work import Open

# Close together at first, then further apart: on PostgreSQL the loop turns while a socket waits.
MOMENTS = sorted({*range(0, 40, 3), *(int(40 * 1.3**n) for n in range(28))})


async def cut_after(ticks: int, task: "asyncio.Task[None]") -> bool:
    """Cancel the task after so many turns of the loop; return whether it was over before."""
    for _ in range(ticks):
        await asyncio.sleep(0)
    was_over = task.done()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return was_over


async def test_a_request_that_is_cut_has_both_its_row_and_its_job_or_neither(
    opened: Open, database: Database
) -> None:
    jobs = opened.new(worker=False)

    @jobs.task()
    async def work(number: int) -> None: ...

    async def request(number: int) -> None:
        async with database.session() as session:
            await session.execute(text("INSERT INTO orders VALUES (:n)"), {"n": number})
            await work.enqueue(session, number)

    async with opened(jobs):
        async with database.session() as session:
            await session.execute(text("CREATE TABLE orders (n BIGINT)"))
        for ticks in MOMENTS:
            if await cut_after(ticks, asyncio.create_task(request(ticks))):
                break
        async with database.read_session() as session:
            orders = await session.scalar(text("SELECT count(*) FROM orders"))
        tasks = (await jobs.overview())["tasks"]
        assert tasks.get("work", {}).get("queued", 0) == orders
        assert orders >= 1


async def test_an_opening_that_is_cut_leaves_nothing_behind(
    opened: Open, database: Database
) -> None:
    """The leak guard looks for threads, connections and tasks."""
    for ticks in MOMENTS[::2]:
        jobs = opened.new()
        is_over = await cut_after(ticks, asyncio.create_task(jobs.open()))
        await jobs.close()
        if is_over:
            break
    async with opened(opened.new()) as jobs:
        assert jobs.statistics().reaped == 0
