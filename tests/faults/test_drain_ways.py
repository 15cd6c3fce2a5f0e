"""The drain's promises hold in each way of running the service, on real processes."""

import asyncio
import time
from signal import SIGTERM

import pytest

from tests.faults.ways import (
    APP,
    FASTAPI_WORKERS,
    GRANIAN,
    GUNICORN,
    HYPERCORN,
    HYPERCORN_ALONE,
    SERVE,
    UVICORN,
    UVICORN_WORKERS,
    Way,
    close_with_streams,
    roll,
    running,
)
from tests.harness import ServerProcess, free_port, request, until

PROMISED = [SERVE, UVICORN, UVICORN_WORKERS, GUNICORN]
AS_FAR_AS_THEY_ALLOW = [FASTAPI_WORKERS, GRANIAN, HYPERCORN_ALONE]
ALONE = [SERVE, UVICORN]
"""One process: its exit code and its signals are the service's own."""


def each(ways: list[Way]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("way", ways, ids=str)


LAG = 1.5
"""Seconds in which a load balancer that has not noticed still sends requests."""

SLACK = 3.0
"""Seconds allowed beyond the promised half second: the machine that tests is a busy one."""


async def check_a_roll_out_fails_nothing(way: Way, *, requests: int) -> None:
    async with running(way) as (process, port):
        rolled = await roll(process, port, clients=30, requests=requests, lag=LAG)
        assert rolled.failed == [], f"{way}: {rolled}"
        assert rolled.later > 30
        assert rolled.code == 0
        assert rolled.is_torn_down
        assert rolled.seconds < 2.0 + 0.5 + SLACK


@each(PROMISED + AS_FAR_AS_THEY_ALLOW)
async def test_no_request_fails_while_the_load_balancer_has_not_noticed(way: Way) -> None:
    await check_a_roll_out_fails_nothing(way, requests=100)


@pytest.mark.storm
@each(PROMISED)
async def test_no_request_fails_in_five_roll_outs(way: Way) -> None:
    for _ in range(5):
        await check_a_roll_out_fails_nothing(way, requests=1000)


@each([UVICORN, UVICORN_WORKERS, GUNICORN, HYPERCORN])
async def test_without_install_requests_fail_in_that_time(way: Way) -> None:
    """The twin: the same app and load, without the library."""
    async with running(way, STOCK="1") as (process, port):
        rolled = await roll(process, port, clients=30, requests=100, lag=LAG)
        assert rolled.failed != []


async def test_hypercorn_with_a_worker_process_gives_no_lame_duck() -> None:
    """Its parent tells the worker by an event of its own, which no lifespan can hold back."""
    async with running(HYPERCORN) as (process, port):
        rolled = await roll(process, port, clients=30, requests=100, lag=LAG)
        assert rolled.failed != []
        assert rolled.is_torn_down


@each(PROMISED + AS_FAR_AS_THEY_ALLOW)
async def test_each_of_sixty_streams_ends_politely_and_not_all_at_once(way: Way) -> None:
    async with running(way, STORMPROOF_PRESTOP="0.5") as (process, port):
        farewell = await close_with_streams(process, port, streams=60)
        assert farewell.ends == ["complete"] * 60
        assert farewell.last_events == ["drain"] * 60
        assert all(farewell.retries)
        assert farewell.spread >= 1.0
        assert farewell.code == 0
        assert farewell.is_torn_down


@each(ALONE)
async def test_exit_comes_when_the_work_is_done(way: Way) -> None:
    """Not at the end of the grace: lame duck 0.5 s, and a request that has 2 s to go."""
    async with running(way, STORMPROOF_PRESTOP="0.5") as (process, port):
        began_at = time.monotonic()
        slow = asyncio.create_task(request(port, "GET", "/slow?seconds=2.5", timeout=15.0))
        await asyncio.sleep(0)
        assert (await request(port, "GET", "/quick")).status == 200
        process.signal(SIGTERM)
        assert (await slow).status == 200
        assert await process.wait_exit() == 0
        assert time.monotonic() - began_at < 2.5 + 0.5 + SLACK


@each([*PROMISED, GRANIAN])
async def test_handler_that_ignores_its_cancellation_cannot_outlast_the_grace(way: Way) -> None:
    env = {"STORMPROOF_PRESTOP": "0", "STORMPROOF_GRACE": "3"}
    async with running(way, **env) as (process, port):
        stubborn = asyncio.create_task(request(port, "GET", "/stubborn", timeout=15.0))
        await asyncio.sleep(0)
        await until(lambda: request_is_read(port))
        signalled_at = time.monotonic()
        process.signal(SIGTERM)
        code = await process.wait_exit()
        assert time.monotonic() - signalled_at < 3.0 + SLACK
        assert (await stubborn).ended != "complete"
        if way in ALONE:
            assert code == 3
            assert "in stubborn" in process.output  # the place where it waits


async def request_is_read(port: int) -> bool:
    """Whether a later connection was answered, so that the one before it has been read."""
    return (await request(port, "GET", "/quick")).status == 200


@each(ALONE)
async def test_blocked_loop_cannot_outlast_the_grace(way: Way) -> None:
    env = {"STORMPROOF_PRESTOP": "0", "STORMPROOF_GRACE": "2"}
    async with running(way, **env) as (process, port):
        blocking = asyncio.create_task(request(port, "GET", "/blocking", timeout=15.0))
        await process.wait_for_line("^blocking")
        process.signal(SIGTERM)
        assert await process.wait_exit(timeout=2.0 + SLACK) == 3
        assert (await blocking).ended != "complete"


@each(ALONE)
async def test_second_signal_ends_it_within_a_second_with_clean_up_run(way: Way) -> None:
    async with running(way, STORMPROOF_PRESTOP="10") as (process, port):
        slow = asyncio.create_task(request(port, "GET", "/slow?seconds=60", timeout=15.0))
        await asyncio.sleep(0)
        assert await request_is_read(port)
        process.signal(SIGTERM)
        await until(lambda: is_draining(port))
        process.signal(SIGTERM)
        again_at = time.monotonic()
        assert await process.wait_exit() == 3
        assert time.monotonic() - again_at < 1.0 + SLACK
        assert "cleaned up" in process.output
        assert "teardown reached" in process.output
        assert (await slow).status == 503


async def is_draining(port: int) -> bool:
    return (await request(port, "GET", "/readyz")).status == 503


@each(ALONE)
async def test_signal_while_the_service_starts_ends_it_after_the_start(way: Way) -> None:
    port = free_port()
    env = {"SLOW_START": "1", "STORMPROOF_PRESTOP": "10", "STORMPROOF_GRACE": "20"}
    async with ServerProcess(
        way.command("main:app", port), env=env, files={"main.py": APP}
    ) as process:
        await process.wait_for_line("^starting", timeout=15.0)
        process.signal(SIGTERM)
        # Without a lame duck: nobody was told to send it anything.
        assert await process.wait_exit(timeout=9.0) == 0
        assert "teardown reached" in process.output


@each(ALONE)
async def test_signal_while_a_start_fails_leaves_its_reason_and_exit_code(way: Way) -> None:
    port = free_port()
    env = {"SLOW_START": "1", "FAIL_START": "1", "STORMPROOF_GRACE": "20"}
    async with ServerProcess(
        way.command("main:app", port), env=env, files={"main.py": APP}
    ) as process:
        await process.wait_for_line("^starting", timeout=15.0)
        process.signal(SIGTERM)
        assert await process.wait_exit(timeout=9.0) == 3
        assert "no start" in process.output
        assert "Task was destroyed" not in process.output


@each(ALONE)
async def test_start_that_does_not_end_cannot_outlast_the_grace(way: Way) -> None:
    port = free_port()
    env = {"SLOW_START": "60", "STORMPROOF_PRESTOP": "0", "STORMPROOF_GRACE": "2"}
    async with ServerProcess(
        way.command("main:app", port), env=env, files={"main.py": APP}
    ) as process:
        await process.wait_for_line("^starting", timeout=15.0)
        process.signal(SIGTERM)
        assert await process.wait_exit(timeout=2.0 + SLACK) == 3
