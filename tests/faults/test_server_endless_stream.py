"""One endless stream must not keep a service alive that was told to stop."""

from signal import SIGTERM

import pytest

from tests.faults.test_drain import WAYS, Command, running
from tests.harness import ServerProcess, Stream, uvicorn_app


async def check_shutdown_is_reached_with_a_stream_open(process: ServerProcess, port: int) -> None:
    """One subscriber reads along through a SIGTERM."""
    async with Stream(port, "/stream") as stream:
        await stream.next_event()
        process.signal(SIGTERM)
        assert await stream.finish(timeout=2.5) == "complete", "the stream never ended"
    assert await process.wait_exit() == 0
    assert "teardown reached" in process.output


@WAYS
async def test_stream_ends_and_the_lifespan_shutdown_is_reached(command: Command) -> None:
    """Ending its streams is the app's part of the shutdown: the drain asks them to leave."""
    async with running(command, "tests.faults.deploy_ours:app", STORMPROOF_PRESTOP="0") as (
        process,
        port,
    ):
        await check_shutdown_is_reached_with_a_stream_open(process, port)


async def test_seed_stream_keeps_the_service_alive() -> None:
    """uvicorn waits for each connection to close, and an endless stream never does."""
    async with running(uvicorn_app, "tests.faults.deploy_post:app") as (process, port):
        with pytest.raises(AssertionError, match="the stream never ended"):
            await check_shutdown_is_reached_with_a_stream_open(process, port)
        assert process.is_running()
        assert "teardown reached" not in process.output
