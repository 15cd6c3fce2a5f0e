"""Work that was acknowledged before a deploy is done after it."""

import asyncio
import re
from signal import SIGTERM

import pytest

from tests.faults.test_drain import WAYS, Command, running
from tests.harness import ServerProcess, request, uvicorn_app


async def check_acknowledged_jobs_are_done(process: ServerProcess, port: int) -> None:
    """Ten jobs of a second are acknowledged, then SIGTERM comes."""
    answers = await asyncio.gather(
        *(request(port, "POST", f"/jobs/{number}") for number in range(10))
    )
    assert [answer.status for answer in answers] == [200] * 10
    process.signal(SIGTERM)
    await process.wait_exit()
    done = set(re.findall(r"job (\d) done", process.output))
    assert len(done) == 10, f"{len(done)} of 10 acknowledged jobs were done"


@WAYS
async def test_acknowledged_tasks_are_done_before_the_exit(command: Command) -> None:
    """The drain awaits what `spawn` took."""
    async with running(command, "tests.faults.deploy_ours:app", STORMPROOF_PRESTOP="0") as (
        process,
        port,
    ):
        await check_acknowledged_jobs_are_done(process, port)


async def test_seed_fire_and_forget_is_forgotten_at_sigterm() -> None:
    """Nobody waits for a task from `create_task`; the loop's end cancels it."""
    async with running(uvicorn_app, "tests.faults.deploy_post:app") as (process, port):
        with pytest.raises(AssertionError, match=r"\d of 10 acknowledged jobs were done"):
            await check_acknowledged_jobs_are_done(process, port)
