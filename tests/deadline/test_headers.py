"""The headers in which a caller says how long it waits: which are trusted, and what they mean."""

import asyncio
import math
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import stormproof
from stormproof.deadline import DeadlineMiddleware, DeadlineStatistics, remaining
from stormproof.errors import InvalidSetting
from stormproof.fastapi import deadline_statistics

from .stage import Client, answer, run_virtual

ALL = (
    "X-Request-Timeout",
    "grpc-timeout",
    "Connect-Timeout-Ms",
    "x-envoy-expected-rq-timeout-ms",
    "Prefer",
)

Pairs = list[tuple[bytes, bytes]]


async def seen_by_the_handler(headers: Pairs, trusted: tuple[str, ...], **settings: Any) -> Any:
    """Return what remained in the handler, or the problem that was answered."""
    seen: list[float | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(remaining())
        await answer(send)

    client = Client(headers)
    await client.call(app, headers=trusted, **settings)
    return seen[0] if seen else client.problem


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (b"x-request-timeout", b"2.5", 2.5),
        (b"grpc-timeout", b"2S", 2.0),
        (b"grpc-timeout", b"1500m", 1.5),
        (b"grpc-timeout", b"99999999u", 99.999999),
        (b"grpc-timeout", b"5000000n", 0.005),
        (b"grpc-timeout", b"1M", 60.0),
        (b"grpc-timeout", b"1H", 3600.0),
        (b"connect-timeout-ms", b"2500", 2.5),
        (b"x-envoy-expected-rq-timeout-ms", b"15000", 15.0),
        (b"prefer", b"wait=3", 3.0),
        (b"prefer", b'respond-async, Wait = "7"', 7.0),
        (b"prefer", b"wait=9; foo=bar, wait=4", 4.0),
        (b"prefer", b"respond-async", None),
        (b"prefer", b'return=minimal; note="wait=1"', None),
    ],
)
def test_each_header_is_read_in_its_own_unit(
    name: bytes, value: bytes, expected: float | None
) -> None:
    async def main() -> None:
        left = await seen_by_the_handler([(name, value)], ALL, default=None)
        assert left == (None if expected is None else pytest.approx(expected))

    run_virtual(main())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grpc-timeout", b"2"),
        ("grpc-timeout", b"S"),
        ("grpc-timeout", b"123456789S"),
        ("grpc-timeout", b"0S"),
        ("grpc-timeout", b"-1S"),
        ("grpc-timeout", b"1.5S"),
        ("Connect-Timeout-Ms", b"12345678901"),
        ("Connect-Timeout-Ms", b"0"),
        ("Connect-Timeout-Ms", b"1s"),
        ("Connect-Timeout-Ms", b"\xb2"),
        ("x-envoy-expected-rq-timeout-ms", b"2.5"),
        ("x-envoy-expected-rq-timeout-ms", b""),
        ("Prefer", b"wait"),
        ("Prefer", b"wait=soon"),
        ("Prefer", b"wait=0"),
        ("Prefer", b"wait=5, wait=x"),
    ],
)
def test_a_malformed_header_is_400_in_one_sentence(name: str, value: bytes) -> None:
    async def main() -> None:
        problem = await seen_by_the_handler([(name.lower().encode(), value)], ALL)
        assert (problem["status"], problem["code"]) == (400, "SP108")
        assert problem["detail"].startswith(f"{name}: ")

    run_virtual(main())


def test_the_least_of_all_headers_and_of_the_default_wins() -> None:
    async def main() -> None:
        headers = [
            (b"x-request-timeout", b"9"),
            (b"grpc-timeout", b"4S"),
            (b"prefer", b"wait=6"),
            (b"x-request-timeout", b"5"),
        ]
        assert await seen_by_the_handler(headers, ALL, default=30.0) == pytest.approx(4.0)
        assert await seen_by_the_handler(headers, ALL, default=3.0) == pytest.approx(3.0)

    run_virtual(main())


def test_a_header_that_is_not_trusted_is_not_even_read() -> None:
    async def main() -> None:
        headers = [(b"grpc-timeout", b"nonsense"), (b"prefer", b"wait=1")]
        assert await seen_by_the_handler(headers, ("X-Request-Timeout",), default=None) is None
        headers = [(b"x-request-timeout", b"nonsense")]
        assert await seen_by_the_handler(headers, (), default=8.0) == pytest.approx(8.0)

    run_virtual(main())


@pytest.mark.parametrize("names", [("X-Timeout",), "Prefer"])
def test_a_header_that_is_not_known_is_refused_at_once(names: Any) -> None:
    with pytest.raises(InvalidSetting, match="headers"):
        DeadlineMiddleware(FastAPI(), headers=names)
    with pytest.raises(InvalidSetting, match="headers"):
        stormproof.install(FastAPI(), deadline_headers=names)


def test_install_trusts_the_headers_it_is_given() -> None:
    app = FastAPI()

    @app.get("/left")
    async def left() -> float | None:
        return stormproof.remaining()

    stormproof.install(app, prestop=0.0, deadline_headers=("Prefer",))
    with TestClient(app) as client:
        assert client.get("/left", headers={"prefer": "wait=2"}).json() <= 2.0
        assert client.get("/left", headers={"x-request-timeout": "2"}).json() > 20.0
    assert deadline_statistics(app) == DeadlineStatistics(overdue=0, expired=0, answered=0)


def test_overdue_handlers_are_counted_while_they_run() -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def deaf(scope: Any, receive: Any, send: Any) -> None:
            try:
                await asyncio.sleep(math.inf)
            finally:
                await release.wait()

        client = Client()
        middleware = client.wrap(deaf, default=1.0)
        task = asyncio.create_task(middleware(client.scope, client.receive, client.send))
        await client.answered.wait()
        await asyncio.sleep(0)
        assert middleware.statistics() == DeadlineStatistics(overdue=1, expired=1, answered=1)
        release.set()
        await task
        assert middleware.statistics() == DeadlineStatistics(overdue=0, expired=1, answered=1)

    run_virtual(main())
