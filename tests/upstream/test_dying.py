"""An upstream that dies or falls silent: the right status, in time, and nothing left behind."""

import asyncio
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stormproof.errors import CircuitOpen, StormproofError, UpstreamFailed, UpstreamTimeout
from stormproof.limit import Limiter
from stormproof.upstream import Budget, CircuitBreaker, Hedge, Retry, Upstream
from stormproof.upstream._aiohttp import AiohttpTransport
from tests.harness import until

from .servers import Peer

SERVER = """
    import asyncio

    async def serve(reader, writer):
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            if b" /half " in head:
                writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 100\\r\\n\\r\\nhalf")
            elif b" /ok " in head:
                writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nok")

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())
"""


@contextmanager
def process() -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Run a server that answers /ok, half of /half, and nothing else."""
    command = [sys.executable, "-c", textwrap.dedent(SERVER)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            yield running, int(running.stdout.readline())
        finally:
            running.kill()


def armed(base_url: str, *, is_aiohttp: bool) -> tuple[Upstream, Limiter]:
    """Return an upstream with everything on, and its limit."""
    limit = Limiter(20)
    upstream = Upstream(
        name="users",
        base_url=base_url,
        timeout=5.0,
        transport=AiohttpTransport() if is_aiohttp else None,
        limit=limit,
        retry=Retry(3, base=0.01, broken=True),
        hedge=Hedge(min_delay=0.02, min_calls=1),
        budget=Budget(1.0, minimum=1000),
        breaker=CircuitBreaker(0.5, min_calls=8, open_for=60.0),
    )
    return upstream, limit


@pytest.mark.parametrize("is_aiohttp", [False, True])
async def test_killed_upstream_fails_what_is_under_way_at_once_and_opens_the_circuit(
    is_aiohttp: bool,
) -> None:
    with process() as (running, port):
        upstream, limit = armed(f"http://127.0.0.1:{port}", is_aiohttp=is_aiohttp)
        async with upstream:
            await upstream.get("/ok", operation="one")
            calls = [
                asyncio.create_task(upstream.get(path, operation="one"))
                for path in ("/silent", "/half", "/silent", "/half")
            ]
            await until(lambda: limit.statistics().in_use == 8)  # each is hedged by now
            running.send_signal(signal.SIGKILL)
            began_at = time.monotonic()
            ended = await asyncio.gather(*calls, return_exceptions=True)
            assert time.monotonic() - began_at < 2.0
            assert {getattr(error, "status", error) for error in ended} <= {502, 503}
            results = await upstream.gather("/ok", "/ok?2", "/ok?3", min_success=0)
            assert {error.status for error in results.errors.values()} <= {502, 503}
            with pytest.raises(CircuitOpen):
                await upstream.get("/ok")
            assert (limit.statistics().in_use, upstream.statistics().in_flight) == (0, 0)
            assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("is_aiohttp", [False, True])
async def test_upstream_that_stops_answering_is_late_in_time_and_left(is_aiohttp: bool) -> None:
    """SIGSTOP: the kernel takes what is sent, and nothing comes back, as in a black hole."""
    with process() as (running, port):
        upstream, limit = armed(f"http://127.0.0.1:{port}", is_aiohttp=is_aiohttp)
        async with upstream:
            await upstream.get("/ok")
            running.send_signal(signal.SIGSTOP)
            began_at = time.monotonic()
            results = await upstream.gather("/ok", "/ok?2", "/half", timeout=0.2, min_success=0)
            assert 0.15 < time.monotonic() - began_at < 1.0
            assert {error.status for error in results.errors.values()} == {504}
            assert (limit.statistics().in_use, upstream.statistics().in_flight) == (0, 0)
            assert len(asyncio.all_tasks()) == 1
            running.send_signal(signal.SIGCONT)
            assert (await upstream.get("/ok")).text == "ok"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/reset", UpstreamFailed),
        ("/closed", UpstreamFailed),
        ("/garbage", UpstreamFailed),
        ("/half", UpstreamTimeout),
        ("/hang", UpstreamTimeout),
    ],
)
@pytest.mark.parametrize("is_aiohttp", [False, True])
async def test_answer_that_never_gets_whole_leaves_nothing_behind(
    server: Peer, is_aiohttp: bool, path: str, error: type[StormproofError]
) -> None:
    upstream, limit = armed(server.url(""), is_aiohttp=is_aiohttp)
    async with upstream:
        with pytest.raises(error, match="'users'"):
            await upstream.get(path, timeout=0.2 if error is UpstreamTimeout else 5.0)
        assert (limit.statistics().in_use, upstream.statistics().in_flight) == (0, 0)
        await until(lambda: server.open_connections == 0)
        await until(lambda: len(asyncio.all_tasks()) == 1)
