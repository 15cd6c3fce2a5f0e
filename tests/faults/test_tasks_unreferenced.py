"""A task that nobody holds is destroyed by the garbage collector in the middle of its work."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable

import pytest

import stormproof


class Job:
    """Waits for an object that only the job itself knows, as an in-process queue's reader does."""

    def __init__(self) -> None:
        self.begun = 0
        self.done = 0
        self._waits: weakref.WeakSet[asyncio.Future[None]] = weakref.WeakSet()

    async def run(self) -> None:
        self.begun += 1
        wait = asyncio.get_running_loop().create_future()
        self._waits.add(wait)
        await wait
        self.done += 1

    def finish(self) -> None:
        """Give each job that still exists what it waits for."""
        for wait in list(self._waits):
            wait.set_result(None)


async def check_spawned_tasks_outlive_a_collection(spawn: Callable[[Job], object]) -> None:
    job = Job()
    for _ in range(20):
        spawn(job)
    await asyncio.sleep(0)
    assert job.begun == 20
    gc.collect()
    job.finish()
    await asyncio.sleep(0)
    assert job.done == 20, f"{job.done} of 20 tasks survived the garbage collector"


async def test_spawned_task_survives_the_garbage_collector() -> None:
    """The supervisor holds each task until it has ended."""
    tasks = stormproof.Tasks()
    await tasks.open()
    try:
        await check_spawned_tasks_outlive_a_collection(lambda job: tasks.spawn(job.run))
    finally:
        await tasks.close()


async def test_seed_task_nobody_holds_is_collected(caplog: pytest.LogCaptureFixture) -> None:
    """The loop's own reference to a task is weak."""

    def fire_and_forget(job: Job) -> object:
        return asyncio.create_task(job.run())  # the check keeps no more of it than the post does

    with (
        caplog.at_level(logging.CRITICAL, "asyncio"),
        pytest.raises(AssertionError, match="0 of 20 tasks survived"),
    ):
        await check_spawned_tasks_outlive_a_collection(fire_and_forget)
