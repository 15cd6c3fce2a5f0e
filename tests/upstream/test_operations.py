"""Operations: which calls take alike, and how many are kept apart."""

import asyncio

import httpx2
import pytest

from stormproof.testing import HandClock
from stormproof.upstream import Budget, Hedge, Upstream
from stormproof.upstream._operations import Latencies, operation_of
from tests.virtual_time import LoopClock

from .script import Script, Step, play


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/users/17/orders", "GET a/users/*/orders"),
        ("/users/0b1c2d3e-aaaa-bbbb-cccc-0123456789ab?q=1", "GET a/users/*"),
        ("/files/abcdefghijklmnopqrstuvwxyz", "GET a/files/*"),
        ("/health", "GET a/health"),
        ("", "GET a/"),
    ],
)
def test_ids_in_a_path_do_not_make_another_operation(path: str, operation: str) -> None:
    assert operation_of(httpx2.Request("GET", f"http://a{path}")) == operation


def test_slow_and_quick_operations_of_one_upstream_are_hedged_each_by_its_own() -> None:
    """/quick takes 0.1 s and /slow 2 s: by the p95 of both no quick call would be hedged."""
    took = {"/quick": 0.1, "/slow": 2.0}

    async def answer(request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(took[request.url.path])
        return httpx2.Response(200)

    async def main(_: Upstream) -> None:
        async with Upstream(
            base_url="http://a",
            transport=httpx2.MockTransport(answer),
            hedge=Hedge(min_calls=5),
            budget=Budget(1.0, clock=LoopClock()),
        ) as upstream:
            for _ in range(6):
                await upstream.gather("/quick", "/slow")
            assert upstream.statistics().hedges == 0
            took["/quick"] = 1.0
            await upstream.get("/quick")
            assert upstream.statistics().hedges == 1
            await upstream.get("/slow")
            assert upstream.statistics().hedges == 1

    play(Script([Step(200)]), main)


def test_operation_of_the_caller_is_taken_and_not_sent() -> None:
    async def main(upstream: Upstream) -> None:
        request = upstream.build_request("GET", "/users/ada", operation="GET /users/{name}")
        assert operation_of(request) == "GET /users/{name}"
        await upstream.get("/users/bob", operation="GET /users/{name}")

    script = Script([Step(200)])
    play(script, main)
    assert operation_of(script.requests[0]) == "GET /users/{name}"
    assert "operation" not in str(script.requests[0].headers)


def test_no_more_than_64_operations_are_kept_apart_and_idle_ones_make_room() -> None:
    clock = HandClock()
    latencies = Latencies(window=10.0, clock=clock)
    requests = [httpx2.Request("GET", f"http://a/{chr(0x4E00 + n)}") for n in range(100)]
    for request in requests:
        latencies.of(request).record(0.1)
    assert latencies.of(requests[0]).total == 1
    assert latencies.of(requests[99]).total == 36
    clock.turn(11.0)
    latencies.of(requests[0]).record(0.1)
    latencies.of(requests[99]).record(0.1)
    assert latencies.of(requests[99]).total == 1
