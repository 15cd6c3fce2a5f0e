"""The outermost middleware: health answers, counting in and out, and the manners of a drain."""

import asyncio
from collections.abc import Awaitable, Container
from types import CoroutineType
from typing import Any, cast

from stormproof._core.asgi import (
    LIFECYCLE_KEY,
    ASGIApp,
    BodyLayer,
    Headers,
    Message,
    Receive,
    Scope,
    Send,
    send_answer,
)
from stormproof._core.events import RequestRefused
from stormproof._core.lifecycle import InFlight, Lifecycle
from stormproof._core.origin import enter_request, leave_request
from stormproof._core.running import Running
from stormproof.errors import Draining, StormproofError, problem_body, problem_headers

from ._drain import Drain
from ._health import HEALTH_PATHS, health_answer
from ._websocket import refuse_websocket, serve_websocket

_RETRY_AFTER = 1.0
_CLOSE = ((b"connection", b"close"),)
_HEALTH_HEADERS = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))


class LifecycleMiddleware:
    """Counts requests, answers the health routes, and tells clients of a drain.

    Pure ASGI and outermost, so that neither the app's own middleware nor its authentication
    can make a probe fail. While the service drains, every HTTP/1 response carries
    `Connection: close`; once it no longer listens, requests on connections that are still
    open get 503 with Retry-After. A request that the drain cuts gets 503 if its response
    had not begun; else its body ends without a final chunk, so that the client sees the cut.
    A WebSocket is closed with code 1012 in its turn, after a notice to its endpoint.

    Args:
        app: The application inside.
        drain: The drain this service ends with.
        own_paths: Health paths that the application answers itself.
    """

    def __init__(self, app: ASGIApp, *, drain: Drain, own_paths: Container[str] = ()) -> None:
        self.app = app
        self._drain = drain
        self._lifecycle = drain.lifecycle
        self._running = Running()
        self._health_paths = tuple(path for path in HEALTH_PATHS if path not in own_paths)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one ASGI scope; cancelling it cancels the application inside."""
        # A plain function: one coroutine less in each request's chain.
        if scope["type"] == "http":
            if scope["path"] in self._health_paths:
                return self._answer_health(scope, send)
            if self._lifecycle.is_draining and self._drain.is_refusing:
                return self._refuse(scope, send)
            return self._serve(scope, receive, send)
        if scope["type"] == "lifespan":
            return self.app(scope, receive, _with_short_failures(send, self._drain))
        if scope["type"] != "websocket":
            return self.app(scope, receive, send)
        if self._drain.is_refusing:
            return refuse_websocket(scope, send)
        return serve_websocket(self.app, scope, receive, send, self._drain)

    async def _answer_health(self, scope: Scope, send: Send) -> None:
        status, body = health_answer(scope["path"], self._lifecycle)
        headers = (*_HEALTH_HEADERS, *self._farewell(scope))
        await send_answer(send, status, headers, body)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        # `lifecycle.request(scope)` in place: as a block it would cost each request 1.3 us more.
        lifecycle = scope[LIFECYCLE_KEY] = self._lifecycle
        request = _Request(scope, lifecycle, send, self._running.task())
        requests = lifecycle.requests
        requests.add(request)
        token = enter_request(request)
        try:
            await self.app(scope, receive, request.send)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not request.is_cut or task is None or task.uncancel() > 0:
                raise
            if request.status is None:
                error = _draining("was cut at the end of the grace period")
                await self._send_problem(scope, send, error)
        finally:
            leave_request(token)
            requests.discard(request)
            request.forget()

    async def _refuse(self, scope: Scope, send: Send) -> None:
        self._lifecycle.events.emit(RequestRefused(f"{scope['method']} {scope['path']}"))
        await self._send_problem(scope, send, _draining("came too late"))

    async def _send_problem(self, scope: Scope, send: Send, error: StormproofError) -> None:
        headers = (*problem_headers(error), *self._farewell(scope))
        await send_answer(send, error.status, headers, problem_body(error))

    def _farewell(self, scope: Scope) -> Headers:
        return _farewell(self._lifecycle, scope)


class _Request(InFlight, BodyLayer):
    """One request in flight: notes how far its response is, and says goodbye in its head."""

    __slots__ = ("_ending", "_lifecycle", "_send")

    def __init__(
        self, scope: Scope, lifecycle: Lifecycle, send: Send, task: "asyncio.Task[Any]"
    ) -> None:
        # Not `super().__init__()`: this is on the path of every request.
        self.scope = scope
        self.started_at = lifecycle.clock.now()
        self.task = task
        self.status = None
        self.is_cut = False
        self._ending: CoroutineType[Any, Any, Any] | None = None
        self._lifecycle = lifecycle
        self._send = send

    @property
    def is_answered(self) -> bool:  # type: ignore[override]  # told by the server's own send
        """Whether the server's send of the last byte has ended."""
        return self._ending is not None and self._ending.cr_frame is None

    def forget(self) -> None:
        """Let go of the task, because contexts that outlive the request hold this object.

        uvicorn's keep-alive timer is one: an idle connection would keep the last request's task,
        coroutines and frames, and in memory that is never warm each request takes 5 us longer.
        """
        self.task = self._ending = None

    @property
    def body_send(self) -> Send:
        """The server's: only the head and the end are of interest here."""
        return self._send

    def send(self, message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
            if self._lifecycle.is_draining:
                farewell = _farewell(self._lifecycle, self.scope)
                message = {**message, "headers": (*message.get("headers", ()), *farewell)}
        elif kind == "http.response.body" and not message.get("more_body"):
            ending = self._send(message)
            # Its frame tells when it has ended: a coroutine around it, of which one could set a
            # flag, would cost each request 0.5 us more.
            if type(ending) is not CoroutineType:
                ending = _awaiting(ending)
            self._ending = cast("CoroutineType[Any, Any, Any]", ending)
            return ending
        return self._send(message)


async def _awaiting(ending: Awaitable[None]) -> None:
    await ending


def _farewell(lifecycle: Lifecycle, scope: Scope) -> Headers:
    """Return `Connection: close` while the service drains (HTTP/1 only)."""
    is_told = lifecycle.is_draining and scope["http_version"].startswith("1")
    return _CLOSE if is_told else ()


def _draining(what: str) -> Draining:
    return Draining(
        f"the service is shutting down: this request {what}; try again, on a new connection",
        retry_after=_RETRY_AFTER,
    )


def _with_short_failures(send: Send, drain: Drain) -> Send:
    """Return a lifespan `send` that says in one sentence why a part did not open.

    Starlette would put the whole traceback into the message, which servers print.
    """

    async def short_send(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed" and drain.start_error is not None:
            message = {**message, "message": str(drain.start_error)}
        await send(message)

    return short_send
