"""Each acknowledged task is done, handed over, or listed at the exit; the pool outlives them."""

import asyncio
import json
import re
from signal import SIGTERM

from tests.faults.test_drain import WAYS, Command, running
from tests.harness import ServerProcess, request, serve_app, until

APP = "tests.faults.tasks_ours:app"
LAST_WORDS = ["service stopped", "teardown reached", "pool closed, 0 in use"]


async def acknowledge(port: int, *paths: str) -> None:
    answers = await asyncio.gather(*(request(port, "POST", path) for path in paths))
    assert [answer.status for answer in answers] == [200] * len(paths)


def said(process: ServerProcess) -> list[str]:
    """Return what the service itself printed, in order."""
    words = r"^(?:task of .*|stored .*|service stopped|teardown reached|pool closed.*)$"
    return re.findall(words, process.stdout, re.MULTILINE)


@WAYS
async def test_acknowledged_tasks_are_done_before_services_teardown_and_pool_end(
    command: Command,
) -> None:
    async with running(command, APP, STORMPROOF_PRESTOP="0", STORMPROOF_GRACE="30") as (
        process,
        port,
    ):
        await acknowledge(port, "/tasks/1", "/tasks/2", "/background/1.5")
        process.signal(SIGTERM)
        assert await process.wait_exit(timeout=20) == 0
        done = ["task of 1 s done", "task of 1.5 s done", "task of 2 s done"]
        words = said(process)
        assert (sorted(words[:-3]), words[-3:]) == (done, LAST_WORDS)
        assert "Traceback" not in process.output


@WAYS
async def test_tasks_that_outlast_the_grace_are_listed_with_the_request_they_came_from(
    command: Command,
) -> None:
    async with running(command, APP, STORMPROOF_PRESTOP="0", STORMPROOF_GRACE="3") as (
        process,
        port,
    ):
        await acknowledge(port, "/tasks/5", "/tasks/8", "/background/8")
        process.signal(SIGTERM)
        code = await process.wait_exit(timeout=15)
        assert code == 3
        losses = re.findall(r"lost task 'write' after \d\.\d s: (.*)", process.output)
        assert len(losses) == 3
        origins = [loss.rpartition(", from ")[2].rpartition(", ")[0] for loss in losses]
        assert sorted(origins) == ["POST /background/{seconds}", *["POST /tasks/{seconds}"] * 2]
        assert all("tasks_ours.py" in loss for loss in losses), "the line where each waited"
        assert said(process) == LAST_WORDS


async def test_unfinished_work_is_handed_over_while_the_pool_is_open() -> None:
    async with running(serve_app, APP, STORMPROOF_PRESTOP="0", STORMPROOF_GRACE="20") as (
        process,
        port,
    ):
        await acknowledge(port, "/tasks/3600?on_shutdown=handover", "/tasks/1")
        await acknowledge(port, "/tasks/3600?on_shutdown=cancel")
        process.signal(SIGTERM)
        assert await process.wait_exit(timeout=15) == 0
        handed_over = "stored write [3600.0] from POST /tasks/{seconds}"
        words = said(process)
        assert sorted(words[:-3]) == [handed_over, "task of 1 s done"]
        assert words[-3:] == LAST_WORDS


@WAYS
async def test_plain_function_that_cannot_be_stopped_is_listed_and_does_not_hold_the_exit(
    command: Command,
) -> None:
    async with running(command, APP, STORMPROOF_PRESTOP="0", STORMPROOF_GRACE="2") as (
        process,
        port,
    ):
        await acknowledge(port, "/block/60")
        process.signal(SIGTERM)
        code = await process.wait_exit(timeout=15)
        assert code == 3
        assert re.search(r"lost task 'sleep' .* in run_in_thread, from POST /block", process.output)
        assert said(process) == LAST_WORDS


async def test_service_that_gives_up_takes_the_instance_out_of_the_balancer() -> None:
    async with running(serve_app, APP, STORMPROOF_PRESTOP="0") as (process, port):
        assert (await request(port, "GET", "/readyz")).status == 200
        assert (await request(port, "POST", "/break")).status == 200

        async def is_unready() -> bool:
            return (await request(port, "GET", "/readyz")).status == 503

        await until(is_unready, what="/readyz to be 503")
        readiness = await request(port, "GET", "/readyz")
        assert json.loads(readiness.body)["reasons"] == {
            "service 'broken'": "failed 4 times in a row, last: ConnectionError"
        }
        assert (await request(port, "GET", "/livez")).status == 200
        await acknowledge(port, "/tasks/0")
        assert process.output.count("task 'broken' failed") == 4
        process.signal(SIGTERM)
        assert await process.wait_exit() == 0
