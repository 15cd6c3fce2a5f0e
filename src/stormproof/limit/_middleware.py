"""`AdmissionMiddleware`: gives each request its slot, or its 503, before the app sees it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

from stormproof._core.asgi import ASGIApp, BodyLayer, Message, Receive, Scope, Send, send_answer
from stormproof.errors import StormproofError, problem_body, problem_headers

from ._admission import Admission
from ._inbox import Inbox
from ._rate import Fields

_EVENT_STREAM = b"text/event-stream"
_AT_ONCE = 0.001  # seconds; a slot that was free takes less


class AdmissionMiddleware:
    """Lets a request into the app when it has a slot; pure ASGI, for `http` scopes only.

    A request that gets no slot is answered 503 with `Retry-After` (504 when its deadline passed
    in the queue), one whose caller is over its rate limit 429, before dependencies, validation
    or the body. The slot is given back when the last byte of the body was handed to the server,
    or when the app has ended, whichever comes first: background tasks do not hold it. A
    response of type `text/event-stream` gives it back at its first byte, because it has no end;
    any other stream holds it to its last.

    A request that had to wait is looked at once more: when its client has left by then, the app
    is not called. A handler whose method is in `cancel_on_disconnect` is cancelled when its
    client leaves later, as long as its response has not begun.

    Put it inside `DeadlineMiddleware`, so that the wait is bounded by the deadline. WebSockets
    pass: a connection that lives for hours has no use for a slot.

    Args:
        app: The ASGI application.
        admission: Who needs a slot of which limiter.
        may_cancel: Asked before a handler is cancelled; False leaves it alone. `install` gives
            one that spares handlers that wait for a thread, which runs on in any case.

    versionadded: 0.1
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        admission: Admission,
        may_cancel: "Callable[[asyncio.Task[Any]], bool]" = lambda task: True,
    ) -> None:
        self._app = app
        self._admission = admission
        self._may_cancel = may_cancel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope; cancelling it cancels the wait, or the application inside."""
        slot, rate = self._admission.terms(scope) if scope["type"] == "http" else (None, None)
        if slot is None and rate is None:
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        arrived_at = loop.time()
        try:
            if rate is not None:
                send = _with_fields(send, await rate.check(scope))
            if slot is not None:
                await slot.__aenter__()
        except StormproofError as error:
            self._admission.refused(error.reason)
            await send_answer(send, error.status, problem_headers(error), problem_body(error))
            return
        self._admission.admitted += 1
        if slot is None:
            await self._app(scope, receive, send)
            return
        request = _Admitted(slot, send, self._admission, self._may_cancel)
        await request.run(
            self._app,
            scope,
            receive,
            has_waited=loop.time() - arrived_at > _AT_ONCE,
            is_watched=scope["method"] in self._admission.cancel_on_disconnect,
        )


class _Admitted(BodyLayer):
    """A request with a slot: runs the app, and gives the slot back once."""

    __slots__ = (
        "_admission",
        "_cancelling",
        "_inbox",
        "_is_cancelled",
        "_is_inside",
        "_is_started",
        "_may_cancel",
        "_send",
        "_slot",
        "_task",
    )

    def __init__(
        self,
        slot: AbstractAsyncContextManager[None],
        send: Send,
        admission: Admission,
        may_cancel: "Callable[[asyncio.Task[Any]], bool]",
    ) -> None:
        self._admission = admission
        self._slot: AbstractAsyncContextManager[None] | None = slot
        self._send = send
        self._may_cancel = may_cancel
        self._inbox: Inbox | None = None
        self._is_cancelled = self._is_inside = self._is_started = False

    async def run(
        self, app: ASGIApp, scope: Scope, receive: Receive, *, has_waited: bool, is_watched: bool
    ) -> None:
        try:
            if has_waited or is_watched:
                await self._run_watched(app, scope, receive, has_waited, is_watched)
            else:
                await app(scope, receive, self.send)
        except BaseException as error:
            await self._release(error)
            raise
        await self._release()

    async def _run_watched(
        self, app: ASGIApp, scope: Scope, receive: Receive, has_waited: bool, is_watched: bool
    ) -> None:
        # An ASGI server runs the app in a task; without one nothing could be cancelled.
        self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        inbox = self._inbox = Inbox(scope, receive, self._client_left)
        try:
            if has_waited and await inbox.look():
                self._admission.admitted -= 1
                self._admission.gone += 1
                return  # nobody is there to work for
            if is_watched:
                inbox.watch()
                await self._run_cancellable(app, scope, inbox)
            else:
                await app(scope, inbox.receive, self.send)
        finally:
            await inbox.close()

    async def _run_cancellable(self, app: ASGIApp, scope: Scope, inbox: Inbox) -> None:
        self._cancelling = self._task.cancelling()
        self._is_inside = True
        try:
            await app(scope, inbox.receive, self.send)
        except asyncio.CancelledError:
            if not self._take_back_cancel() or self._task.cancelling() > self._cancelling:
                raise
        finally:
            self._is_inside = False
            self._take_back_cancel()

    def _take_back_cancel(self) -> bool:
        """Take back our cancel(), once; return whether there was one."""
        if not self._is_cancelled:
            return False
        self._is_cancelled = False
        self._task.uncancel()
        return True

    @property
    def body_send(self) -> Send:
        """The server's: only the head and the last byte are of interest here."""
        return self._send

    def send(self, message: Message) -> Awaitable[None]:
        """Pass on what the app sends, and give the slot back at the last byte."""
        if message["type"] == "http.response.start":
            self._is_started = True
            if self._inbox is not None:
                self._inbox.stop()
            if _is_event_stream(message):
                return self._send_and_release(message)
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            return self._send_and_release(message)
        return self._send(message)

    async def _send_and_release(self, message: Message) -> None:
        await self._send(message)
        await self._release()

    async def _release(self, error: BaseException | None = None) -> None:
        """Give the slot back; never suspends."""
        slot, self._slot = self._slot, None
        if slot is not None:
            kind = None if error is None else type(error)
            await slot.__aexit__(kind, error, None)

    def _client_left(self) -> None:
        if not self._is_inside or self._is_started:
            return
        if self._task.cancelling() > self._cancelling:
            return  # someone else has cancelled it: a second time would hit its clean-up
        if self._may_cancel(self._task):
            self._is_cancelled = True
            self._admission.cancelled += 1
            self._task.cancel()


def _is_event_stream(message: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(_EVENT_STREAM)
        for name, value in message.get("headers", ())
    )


def _with_fields(send: Send, fields: Fields) -> Send:
    """Return a `send` that adds `fields` to the head of the response."""

    async def send_with_fields(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": (*message.get("headers", ()), *fields)}
        await send(message)

    return send_with_fields
