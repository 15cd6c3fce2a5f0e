"""The outermost middleware: health answers, counting in and out, and the manners of a drain."""

import asyncio
from collections.abc import Container

from stormproof._core.asgi import LIFECYCLE_KEY, ASGIApp, Message, Receive, Scope, Send, send_answer
from stormproof._core.events import RequestRefused
from stormproof._core.lifecycle import InFlight
from stormproof.errors import Draining, StormproofError, problem_body, problem_headers

from ._drain import Drain
from ._health import HEALTH_PATHS, health_answer

_RETRY_AFTER = 1.0
_HEALTH_HEADERS = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))


class LifecycleMiddleware:
    """Counts requests, answers the health routes, and tells clients of a drain.

    Pure ASGI and outermost, so that neither the app's own middleware nor its authentication
    can make a probe fail. While the service drains, every HTTP/1 response carries
    `Connection: close`; once it no longer listens, requests on connections that are still
    open get 503 with Retry-After. A request that the drain cuts gets 503 if its response
    had not begun; else its body ends without a final chunk, so that the client sees the cut.

    Args:
        app: The application inside.
        drain: The drain this service ends with.
        own_paths: Health paths that the application answers itself.
    """

    def __init__(self, app: ASGIApp, *, drain: Drain, own_paths: Container[str] = ()) -> None:
        self.app = app
        self._drain = drain
        self._lifecycle = drain.lifecycle
        self._health_paths = tuple(path for path in HEALTH_PATHS if path not in own_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope; cancelling it cancels the application inside."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, _with_short_failures(send, self._drain))
        elif scope["type"] == "http" and scope["path"] in self._health_paths:
            await self._answer_health(scope, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            with self._lifecycle.request(scope):
                await self.app(scope, receive, send)

    async def _answer_health(self, scope: Scope, send: Send) -> None:
        status, body = health_answer(scope["path"], self._lifecycle)
        await send_answer(_polite(scope, send, self._drain), status, _HEALTH_HEADERS, body)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        send = _polite(scope, send, self._drain)
        if self._drain.is_refusing:
            await self._refuse(scope, send)
            return
        scope[LIFECYCLE_KEY] = self._lifecycle
        with self._lifecycle.request(scope) as entry:
            try:
                await self.app(scope, receive, _noted(send, entry))
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not entry.is_cut or task is None or task.uncancel() > 0:
                    raise
                if entry.status is None:
                    await _send_problem(send, _draining("was cut at the end of the grace period"))

    async def _refuse(self, scope: Scope, send: Send) -> None:
        error = _draining("came too late")
        self._lifecycle.events.emit(RequestRefused(f"{scope['method']} {scope['path']}"))
        await _send_problem(send, error)


def _draining(what: str) -> Draining:
    return Draining(
        f"the service is shutting down: this request {what}; try again, on a new connection",
        retry_after=_RETRY_AFTER,
    )


async def _send_problem(send: Send, error: StormproofError) -> None:
    await send_answer(send, error.status, problem_headers(error), problem_body(error))


def _polite(scope: Scope, send: Send, drain: Drain) -> Send:
    """Return a `send` that adds `Connection: close` while the service drains (HTTP/1 only)."""
    if not scope["http_version"].startswith("1"):
        return send

    async def polite_send(message: Message) -> None:
        if message["type"] == "http.response.start" and drain.lifecycle.is_draining:
            headers = [*message.get("headers", ()), (b"connection", b"close")]
            message = {**message, "headers": headers}
        await send(message)

    return polite_send


def _noted(send: Send, entry: InFlight) -> Send:
    """Return a `send` that notes in `entry` how far the response has come."""

    async def noting_send(message: Message) -> None:
        if message["type"] == "http.response.start":
            entry.status = message["status"]
        await send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            entry.is_answered = True

    return noting_send


def _with_short_failures(send: Send, drain: Drain) -> Send:
    """Return a lifespan `send` that says in one sentence why a part did not open.

    Starlette would put the whole traceback into the message, which servers print.
    """

    async def short_send(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed" and drain.start_error is not None:
            message = {**message, "message": str(drain.start_error)}
        await send(message)

    return short_send
