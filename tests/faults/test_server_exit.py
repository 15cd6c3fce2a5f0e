"""How a service ends: with its clean-up done, the right exit code, and at a second signal."""

import asyncio
from collections.abc import Awaitable, Callable
from signal import SIGTERM

import pytest

from tests.faults.test_drain import WAYS, Command, is_draining, running
from tests.harness import ServerProcess, request, until, uvicorn_app

OURS = "tests.faults.deploy_ours:app"
POST = "tests.faults.deploy_post:app"

Check = Callable[[ServerProcess, int], Awaitable[None]]


def uvicorn_with_a_limit(app: str, port: int) -> list[str]:
    """Plain uvicorn with the option that is meant for this."""
    return uvicorn_app(app, port, "--timeout-graceful-shutdown", "1")


async def check_idle_service_exits_with_0(process: ServerProcess, port: int) -> None:
    process.signal(SIGTERM)
    code = await process.wait_exit()
    assert code == 0, f"a clean shutdown ended with exit code {code}"
    assert "teardown reached" in process.output


async def check_cut_request_cleans_up_first(process: ServerProcess, port: int) -> None:
    """A request that never ends is cut; its `finally` runs to the end, before the teardown."""
    stuck = asyncio.create_task(request(port, "GET", "/stuck", timeout=20.0))
    await process.wait_for_line("request began")
    process.signal(SIGTERM)
    await process.wait_exit()
    await stuck
    said = [line for line in process.stdout.splitlines() if line.startswith(("clean", "teard"))]
    assert said == ["clean-up began", "clean-up done", "teardown reached"], (
        f"the clean-up was not awaited: {said}"
    )


async def check_second_signal_forces(process: ServerProcess, port: int) -> None:
    """The grace is 20 s; a person who sends a second signal does not want to wait for it."""
    stuck = asyncio.create_task(request(port, "GET", "/stuck", timeout=20.0))
    try:
        await process.wait_for_line("request began")
        process.signal(SIGTERM)
        await until(lambda: _has_begun_to_stop(process, port))
        process.signal(SIGTERM)
        try:
            await process.wait_exit(timeout=2.5)
        except TimeoutError:
            raise AssertionError("the second signal did not end the service") from None
        assert "clean-up done" in process.output
    finally:
        stuck.cancel()
        await asyncio.wait([stuck])


async def _has_begun_to_stop(process: ServerProcess, port: int) -> bool:
    return "Shutting down" in process.output or await is_draining(port)


@WAYS
async def test_clean_shutdown_exits_with_0(command: Command) -> None:
    """A signal that was drained is not raised again at the end."""
    async with running(command, OURS, STORMPROOF_PRESTOP="0") as (process, port):
        await check_idle_service_exits_with_0(process, port)


async def test_seed_clean_shutdown_looks_like_a_killed_one() -> None:
    """uvicorn raises the signal again once it is done, so the exit code is -15."""
    async with running(uvicorn_app, POST) as (process, port):
        with pytest.raises(AssertionError, match="ended with exit code -15"):
            await check_idle_service_exits_with_0(process, port)


@WAYS
async def test_clean_up_of_a_cut_request_is_awaited(command: Command) -> None:
    """What the drain cancels is awaited, then the lifespan goes on."""
    env = {"STORMPROOF_PRESTOP": "0", "STORMPROOF_GRACE": "4"}
    async with running(command, OURS, **env) as (process, port):
        await check_cut_request_cleans_up_first(process, port)
        assert "lost request 'GET /stuck'" in process.output
        assert await process.wait_exit() == 3


async def test_seed_clean_up_of_a_cut_request_is_not_awaited() -> None:
    """`timeout_graceful_shutdown` cancels the requests and goes straight on to the teardown."""
    async with running(uvicorn_with_a_limit, POST, CLEAN_UP_SECONDS="5") as (process, port):
        with pytest.raises(AssertionError, match="the clean-up was not awaited"):
            await check_cut_request_cleans_up_first(process, port)


@WAYS
async def test_second_signal_cuts_what_is_left(command: Command) -> None:
    """The clean-up still gets its moment."""
    async with running(command, OURS, STORMPROOF_PRESTOP="10") as (process, port):
        await check_second_signal_forces(process, port)


async def test_seed_second_sigterm_changes_nothing() -> None:
    """uvicorn forces at a second SIGINT only."""
    async with running(uvicorn_app, POST) as (process, port):
        with pytest.raises(AssertionError, match="the second signal did not end the service"):
            await check_second_signal_forces(process, port)
