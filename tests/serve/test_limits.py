"""Read limits: a client that is slow to send is closed, one that waits for us is not."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from stormproof._core.asgi import Message, Receive, Scope, Send
from stormproof.errors import InvalidSetting
from stormproof.serve._limits import ReadLimits
from tests.serve.wire_end import Client, connected
from tests.virtual_time import run_virtually

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
HALF = b"GET / HTTP/1.1\r\nhost: a\r\nx-slow:"
POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n"
LIMITS = ReadLimits(header_timeout=10, body_timeout=30)

App = Callable[[Scope, Receive, Send], Awaitable[None]]
Talk = Callable[[Client], Awaitable[None]]


async def respond(send: Send) -> None:
    fields = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": b"ok"})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] == "http.request":
        if not message["more_body"]:
            await respond(send)
            return


@pytest.fixture(params=[HttpToolsProtocol, H11Protocol], ids=["httptools", "h11"])
def talk(request: pytest.FixtureRequest) -> Callable[[App, Talk], None]:
    def run(app: App, client_side: Talk) -> None:
        async def main() -> None:
            with connected(app, request.param, LIMITS) as client:
                await client_side(client)
            await asyncio.sleep(0)

        run_virtually(main())

    return run


async def test_limit_must_be_a_positive_number() -> None:
    with pytest.raises(InvalidSetting, match=r"--body-timeout must be .* more than 0; got 0"):
        ReadLimits(body_timeout=0)


def test_half_a_head_gets_408_at_the_limit(talk: Any) -> None:
    async def client_side(client: Client) -> None:
        client.send(HALF)
        await asyncio.sleep(20)
        assert (client.statuses, client.closed_after) == ([408], 10)

    talk(echo, client_side)


def test_connection_that_sends_nothing_is_closed_without_a_word(talk: Any) -> None:
    async def client_side(client: Client) -> None:
        await asyncio.sleep(20)
        assert (client.wire.written, client.closed_after) == (b"", 10)

    talk(echo, client_side)


def test_head_that_trickles_in_is_not_given_more_time(talk: Any) -> None:
    async def client_side(client: Client) -> None:
        client.send(HALF)
        for _ in range(30):
            await asyncio.sleep(0.5)
            if not client.wire.is_closing():
                client.send(b"x")
        assert (client.statuses, client.closed_after) == ([408], 10)

    talk(echo, client_side)


def test_line_ends_before_a_head_keep_nothing_open(talk: Any) -> None:
    async def client_side(client: Client) -> None:
        client.send(GET)
        await asyncio.sleep(1)
        client.send(b"\r\n")
        await asyncio.sleep(20)
        assert client.closed_after in (1, 11)  # h11 refuses an empty line at once

    talk(echo, client_side)


def test_kept_connection_may_be_idle_for_longer_than_the_limits(talk: Any) -> None:
    async def client_side(client: Client) -> None:
        for at in (0, 60, 120):
            client.send(GET)
            await asyncio.sleep(60)
            assert len(client.statuses) == at // 60 + 1
        assert client.statuses == [200, 200, 200]
        await asyncio.sleep(60)
        assert client.closed_after == 120 + 75  # uvicorn's own limit

    talk(echo, client_side)


def test_half_a_head_on_a_kept_connection_is_timed_from_its_first_byte(talk: Any) -> None:
    async def client_side(client: Client) -> None:
        client.send(GET)
        await asyncio.sleep(40)
        client.send(HALF)
        await asyncio.sleep(20)
        assert (client.statuses, client.closed_after) == ([200, 408], 50)

    talk(echo, client_side)


def test_half_a_head_behind_a_request_never_cuts_its_answer(talk: Any) -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(50)
        await respond(send)

    async def client_side(client: Client) -> None:
        client.send(GET + HALF)
        await asyncio.sleep(90)
        assert (client.statuses, client.closed_after) == ([200, 408], 60)

    talk(slow, client_side)


def test_slow_app_is_not_the_client_s_fault(talk: Any) -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(500)
        await respond(send)

    async def client_side(client: Client) -> None:
        client.send(GET)
        await asyncio.sleep(510)
        assert (client.statuses, client.closed_after) == ([200], None)

    talk(slow, client_side)


def test_body_that_stalls_gets_408_and_the_app_hears_of_it(talk: Any) -> None:
    ends: list[Message] = []

    async def reading(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            pass
        ends.append(message)
        await respond(send)

    async def client_side(client: Client) -> None:
        client.send(POST + b"\r\n" + b"x" * 10)
        await asyncio.sleep(12)
        client.send(b"x")
        await asyncio.sleep(60)
        assert (client.statuses, client.closed_after) == ([408], 42)
        assert ends == [{"type": "http.disconnect"}]

    talk(reading, client_side)


def test_body_that_goes_on_is_not_closed(talk: Any) -> None:
    async def client_side(client: Client) -> None:
        client.send(POST + b"\r\n")
        for _ in range(10):
            client.send(b"x" * 100_000)
            await asyncio.sleep(29)
        assert (client.statuses, client.closed_after) == ([200], None)

    talk(echo, client_side)


def test_client_that_is_held_back_is_not_late(talk: Any) -> None:
    """The app reads nothing for 200 s, so the server has stopped taking bytes."""

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(200)
        await echo(scope, receive, send)

    async def client_side(client: Client) -> None:
        client.send(POST + b"\r\n" + b"x" * 100_000)
        assert client.wire.is_reading_paused
        await asyncio.sleep(205)
        assert not client.wire.is_reading_paused
        client.send(b"x" * 900_000)
        await asyncio.sleep(1)
        assert (client.statuses, client.closed_after) == ([200], None)

    talk(late, client_side)


def test_client_that_waits_for_100_continue_is_not_late(talk: Any) -> None:
    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(200)
        await echo(scope, receive, send)

    async def client_side(client: Client) -> None:
        client.send(POST + b"expect: 100-continue\r\n\r\n")
        await asyncio.sleep(205)
        client.send(b"x" * 1_000_000)
        await asyncio.sleep(1)
        assert (client.statuses, client.closed_after) == ([100, 200], None)

    talk(late, client_side)


def test_answer_that_is_on_its_way_is_not_cut_for_the_body_s_sake(talk: Any) -> None:
    async def early(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(10):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(20)
        await send({"type": "http.response.body", "body": b""})

    async def client_side(client: Client) -> None:
        client.send(POST + b"\r\n")
        await asyncio.sleep(199)
        assert client.closed_after is None
        await asyncio.sleep(100)
        assert client.statuses == [200]
        assert client.wire.written.endswith(b"0\r\n\r\n")
        assert client.closed_after is not None  # the rest of that body never came

    talk(early, client_side)


def test_no_timer_is_left_when_the_client_leaves(talk: Any) -> None:
    async def client_side(client: Client) -> None:
        client.send(HALF)
        client.wire.close()
        await asyncio.sleep(100)
        assert client.statuses == []

    talk(echo, client_side)
