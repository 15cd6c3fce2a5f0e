"""Once the response has started: the default is lifted, what was asked for cuts the body."""

import asyncio
import math
from typing import Any

import pytest

from stormproof._core.events import DeadlineExpired, OverdueFinished
from stormproof.deadline import limit_request, remaining

from .stage import Client, answer, chunk, run_virtual, start


async def stream(send: Any, seconds: float) -> None:
    await start(send)
    for _ in range(round(seconds * 10)):
        await chunk(send)
        await asyncio.sleep(0.1)
    await chunk(send, b"", more=False)


def test_the_default_is_lifted_when_the_response_starts() -> None:
    async def main() -> None:
        seen: list[float | None] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(remaining())
            await start(send)
            seen.append(remaining())
            await asyncio.sleep(100)
            await chunk(send, more=False)

        client = Client()
        await client.call(app, default=1.0)
        assert seen == [1.0, None]
        assert (client.statuses, client.is_whole, client.seen) == ([200], True, [])

    run_virtual(main())


@pytest.mark.parametrize(
    ("asked", "cut_at"), [("header", 1.05), ("header-after-default", 3.05), ("route", 1.05)]
)
def test_what_was_asked_for_cuts_the_body_without_an_end(asked: str, cut_at: float) -> None:
    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if asked == "route":
                limit_request(scope, cut_at)
            await stream(send, 10)

        headers = [] if asked == "route" else [(b"x-request-timeout", b"%g" % cut_at)]
        client = Client(headers)
        await client.call(app, default=2.0)
        assert (client.statuses, client.is_whole) == ([200], False)
        assert all(message.get("more_body", True) for message in client.sent)
        assert client.elapsed() == cut_at
        assert client.seen == [DeadlineExpired("GET /slow", pytest.approx(cut_at), answered=False)]

    run_virtual(main())


def test_a_polite_end_after_the_cut_is_dropped() -> None:
    """It would make half a body look whole."""

    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await start(send)
            await chunk(send, b"half")
            try:
                await asyncio.sleep(math.inf)
            except asyncio.CancelledError:
                await asyncio.sleep(0.2)
            await chunk(send, b"", more=False)

        client = Client([(b"x-request-timeout", b"1")])
        await client.call(app)
        assert (client.body, client.is_whole) == (b"half", False)
        assert isinstance(client.seen[1], OverdueFinished)

    run_virtual(main())


def test_a_handler_that_sends_without_end_after_the_cut_does_not_block_the_loop() -> None:
    async def main() -> None:
        stop = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await start(send)
            try:
                await asyncio.sleep(math.inf)
            except asyncio.CancelledError:
                asyncio.get_running_loop().call_soon(stop.set)
            while not stop.is_set():
                await chunk(send)

        client = Client([(b"x-request-timeout", b"1")])
        await client.call(app)
        assert client.body == b""

    run_virtual(main())


def test_background_work_after_the_last_byte_has_no_deadline() -> None:
    async def main() -> None:
        seen: list[float | None] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await answer(send)
            await asyncio.sleep(5)
            seen.append(remaining())

        client = Client([(b"x-request-timeout", b"1")])
        await client.call(app)
        assert (seen, client.seen, client.is_whole) == ([None], [], True)

    run_virtual(main())
