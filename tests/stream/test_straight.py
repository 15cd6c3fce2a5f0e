"""An event goes straight to the server, past those alone who hand it on as it is."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, Response
from starlette._exception_handler import wrap_app_handling_exceptions
from starlette.requests import Request

import stormproof
from stormproof._core.asgi import ASGIApp, Message, Receive, Scope, Send
from stormproof.limit import Admission, Limiter
from stormproof.stream._straight import straight


class Begun(Response):
    """Begins, and notes where the body would go."""

    def __init__(self) -> None:
        super().__init__()
        self.ways: list[Send] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.ways.append(straight(send))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def receive() -> Message:
    return {"type": "http.disconnect"}


async def server_send(message: Message) -> None:
    """Take what a server would write."""


def scope_with(headers: dict[str, str]) -> Scope:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }


async def way_through(wrap: Callable[[FastAPI], ASGIApp], **headers: str) -> Send:
    begun = Begun()
    app = FastAPI()
    app.get("/")(lambda: begun)
    await wrap(app)(scope_with(headers), receive, server_send)
    (way,) = begun.ways
    return way


def installed(app: FastAPI) -> FastAPI:
    stormproof.install(app)
    return app


def admitted(app: FastAPI) -> FastAPI:
    stormproof.install(app, admission=Admission(Limiter(1)))
    return app


@pytest.mark.parametrize("wrap", [lambda app: app, installed, admitted])
async def test_behind_a_route_the_server_is_reached_at_once(wrap: Any) -> None:
    assert await way_through(wrap) is server_send


async def test_a_deadline_that_holds_for_the_body_can_still_cut_it() -> None:
    way = await way_through(installed, **{"x-request-timeout": "5"})
    assert way is not server_send
    assert type(getattr(way, "__self__", None)).__name__ == "RequestDeadline"


async def test_middleware_of_the_user_sees_every_message() -> None:
    seen: list[str] = []

    def watched(app: FastAPI) -> ASGIApp:
        async def watch(scope: Scope, receive: Receive, send: Send) -> None:
            response_started = False

            async def counting_send(message: Message) -> None:
                nonlocal response_started
                if message["type"] == "http.response.start":
                    response_started = True
                seen.append(message["type"])
                await send(message)

            await app(scope, receive, counting_send)

        return watch

    way = await way_through(watched)
    await way({"type": "http.response.body", "body": b"x", "more_body": True})
    assert len(seen) == 3


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_wrapper_that_does_more_than_it_did_is_not_skipped(
    monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    """Another release of Starlette may do something there that must not be left out."""
    if not is_known:
        monkeypatch.setattr("stormproof.stream._straight._CONSTANTS", {None, "type", True})
    ways: list[Send] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ways.append(straight(send))

    scope = scope_with({})
    await wrap_app_handling_exceptions(app, Request(scope))(scope, receive, server_send)
    assert (ways[0] is server_send) is is_known
