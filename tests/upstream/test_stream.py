"""An answer read piece by piece: what bounds it, what it holds, and what it gives back."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx2
import pytest

from stormproof._core.deadline import Deadline, in_force
from stormproof.errors import CircuitOpen, InvalidSetting, UpstreamFailed, UpstreamTimeout
from stormproof.limit import Limiter
from stormproof.upstream import CircuitBreaker, Retry, Upstream
from tests.harness import until
from tests.virtual_time import LoopClock, ticks

from .script import Script, Step, play
from .servers import Peer


async def test_pieces_come_as_they_are_sent_and_the_connection_is_kept(
    upstream: Upstream, server: Peer
) -> None:
    async with upstream.stream("GET", "/pieces") as response:
        pieces = response.aiter_bytes()
        assert await anext(pieces) == b"one"
        assert not server.released.is_set()
        server.released.set()
        assert b"".join([piece async for piece in pieces]) == b"two"
    assert (await upstream.get("/ok")).status_code == 200
    assert server.open_connections == upstream.statistics().connections_opened == 1


async def test_body_takes_as_long_as_it_likes_while_its_pieces_come(upstream: Upstream) -> None:
    began_at = time.monotonic()
    async with upstream.stream("GET", "/drip", timeout=0.2, idle=1.0) as response:
        received = 0
        async for piece in response.aiter_bytes():
            received += len(piece)
            if time.monotonic() > began_at + 0.4:
                break
    assert received > 5


@pytest.mark.parametrize("has_deadline", [False, True])
async def test_piece_that_does_not_come_is_a_timeout(
    upstream: Upstream, server: Peer, has_deadline: bool
) -> None:
    async with upstream.stream("GET", "/pieces", idle=60.0 if has_deadline else 0.1) as response:
        pieces = response.aiter_bytes()
        assert await anext(pieces) == b"one"
        with (
            in_force(Deadline(time.monotonic() + 0.1) if has_deadline else None),
            pytest.raises(UpstreamTimeout, match=r"'users' began to answer GET http.*/pieces, but"),
        ):
            await anext(pieces)
    await until(lambda: server.open_connections == 0)
    assert (upstream.statistics().timed_out, upstream.statistics().in_flight) == (1, 0)


async def test_body_that_breaks_off_is_the_upstreams_failure(upstream: Upstream) -> None:
    async with upstream.stream("GET", "/reset") as response:
        with pytest.raises(UpstreamFailed, match="'users' broke off"):
            await response.aread()
    assert (upstream.statistics().failed, upstream.statistics().in_flight) == (1, 0)


async def test_block_that_is_left_early_closes_its_connection(
    upstream: Upstream, server: Peer
) -> None:
    async with upstream.stream("GET", "/pieces"):
        pass
    await until(lambda: server.open_connections == 0)
    with pytest.raises(KeyError):
        async with upstream.stream("GET", "/pieces"):
            raise KeyError("of the caller")
    await until(lambda: server.open_connections == 0)
    assert upstream.statistics().failed == 0


async def test_errors_of_the_reader_are_its_own(upstream: Upstream, server: Peer) -> None:
    for error in (TimeoutError("mine"), OSError("mine")):
        with pytest.raises(type(error), match="mine") as caught:
            async with upstream.stream("GET", "/pieces"):
                raise error
        assert caught.value is error
    await until(lambda: server.open_connections == 0)


async def test_head_is_bounded_and_checked_as_that_of_any_call(upstream: Upstream) -> None:
    with pytest.raises(UpstreamTimeout, match=r"within 0\.100 s"):
        async with upstream.stream("GET", "/hang", timeout=0.1):
            pytest.fail("there was no head")
    with pytest.raises(UpstreamFailed, match="answered 503"):
        async with upstream.stream("GET", "/503", raise_for_status=True):
            pytest.fail("it was not 2xx")
    with (
        in_force(Deadline(time.monotonic() - 1.0)),
        pytest.raises(UpstreamTimeout, match="was not asked"),
    ):
        async with upstream.stream("GET", "/ok"):
            pytest.fail("it was too late")
    with pytest.raises(InvalidSetting, match="idle"):
        async with upstream.stream("GET", "/ok", idle=0.0):
            pytest.fail("no piece can come in no time")


def test_slot_is_held_until_the_block_ends_and_refused_heads_are_tried_again() -> None:
    limit = Limiter(1, max_wait=0.0)
    script = Script([Step(503), Step(200)])

    async def main(upstream: Upstream) -> None:
        async with upstream.stream("GET", "/") as response:
            assert response.status_code == 200
            await asyncio.sleep(60.0)
            assert (limit.statistics().in_use, upstream.statistics().in_flight) == (1, 1)
        assert (limit.statistics().in_use, upstream.statistics().in_flight) == (0, 0)
        assert upstream.statistics().retries == 1

    play(script, main, limit=limit, retry=Retry(base=1.0, draw=lambda: 1.0))
    assert script.asked_at == [0.0, 1.0]
    assert script.told == ["10.000", "9.000"]


class Broken(httpx2.AsyncByteStream):
    """A body that breaks off after its first piece."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"one"
        raise httpx2.ReadError("gone")


def test_bodies_that_break_off_open_the_circuit_and_the_head_of_a_probe_closes_it() -> None:
    bodies = [Broken(), Broken()]

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, stream=bodies.pop() if bodies else None)

    async def read(upstream: Upstream) -> None:
        async with upstream.stream("GET", "http://a/") as response:
            await response.aread()

    async def main(upstream: Upstream) -> None:
        breaker = CircuitBreaker(min_calls=2, name="a", clock=LoopClock())
        other = Upstream(transport=httpx2.MockTransport(answer), breaker=breaker)
        async with other:
            for _ in range(2):
                with pytest.raises(UpstreamFailed):
                    await read(other)
            with pytest.raises(CircuitOpen):
                await read(other)
            await asyncio.sleep(5.0)
            async with other.stream("GET", "http://a/"):
                assert breaker.circuit.value == "ramping"
            await read(other)

    play(Script([Step(200)]), main)


@pytest.mark.parametrize("after", [0.0, 1.0, 1.5, 2.5, 3.0])
@pytest.mark.parametrize("more_ticks", range(6))
def test_cancelled_at_any_moment_gives_everything_back(after: float, more_ticks: int) -> None:
    """A refusal after 1 s, a pause of 1 s, an answer after another 1 s, a body of 1 s."""
    limit = Limiter(1)
    breaker = CircuitBreaker(clock=LoopClock())
    script = Script([Step(503, delay=1.0), Step(200, delay=1.0)])

    async def main(upstream: Upstream) -> None:
        async def read() -> None:
            async with upstream.stream("GET", "/"):
                await asyncio.sleep(1.0)

        reading = asyncio.create_task(read())
        await asyncio.sleep(after)
        await ticks(more_ticks)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()
        assert (limit.statistics().in_use, upstream.statistics().in_flight) == (0, 0)
        assert breaker._in_flight == script.running == 0

    retry = Retry(base=1.0, draw=lambda: 1.0)
    play(script, main, limit=limit, breaker=breaker, retry=retry)
