"""WebSockets at a drain: a notice for the endpoint, then close code 1012, then an end."""

import asyncio
import logging
from typing import Any

from stormproof._core.asgi import LIFECYCLE_KEY, PLACE_KEY, ASGIApp, Message, Receive, Scope, Send
from stormproof._core.lifecycle import StreamPlace
from stormproof._core.place import waiting_place

from ._drain import Drain

_log = logging.getLogger("stormproof")

_SERVICE_RESTART = 1012
"""The close code that asks a client to connect again (IANA registry of RFC 6455)."""

_NOTICE = 0.5
"""Seconds between the notice in the scope and the close frame, to say goodbye in."""

_CLEAN_UP = 0.5
"""Seconds an endpoint has, once its socket is closed, before it is cancelled."""

_GOODBYE: Message = {
    "type": "websocket.close",
    "code": _SERVICE_RESTART,
    "reason": "the service restarts",
}
_GONE: Message = {
    "type": "websocket.disconnect",
    "code": _SERVICE_RESTART,
    "reason": "the service restarts",
}


async def serve_websocket(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, drain: Drain
) -> None:
    """Run `app` on one WebSocket, and end it in its turn of the drain.

    The endpoint finds its place in `scope["stormproof.place"]`; when `place.leave` is set it
    has half a second. Then the client gets close code 1012, and the endpoint a
    `websocket.disconnect`; half a second later it is cancelled. Waits until the endpoint has
    ended. Cancelled: the endpoint is cancelled and awaited.
    """
    lifecycle = drain.lifecycle
    name = f"WebSocket {scope['path']}"
    with lifecycle.request(scope), lifecycle.stream(name) as place:
        scope[LIFECYCLE_KEY] = lifecycle
        scope[PLACE_KEY] = place
        if drain.is_ending_streams:
            place.leave.set()
        await _WebSocket(name, receive, send, place).run(app, scope)


async def refuse_websocket(scope: Scope, send: Send) -> None:
    """Answer a handshake with 503, or with 403 where the server cannot send another status."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send(_GOODBYE)
        return
    headers = [(b"retry-after", b"1"), (b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "websocket.http.response.start", "status": 503, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b"", "more_body": False})


class _WebSocket:
    """One socket: what passes between its endpoint and the server, until one side closes it."""

    def __init__(self, name: str, receive: Receive, send: Send, place: StreamPlace) -> None:
        self._name = name
        self._inner_receive = receive
        self._inner_send = send
        self._place = place
        self._reading: set[asyncio.Timeout] = set()
        self._is_over = False  # either side has closed
        self._is_closed_by_us = False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        endpoint = asyncio.ensure_future(app(scope, self._receive, self._send))
        leave = asyncio.create_task(self._place.leave.wait())
        try:
            # No limit: it ends with the endpoint, or in its turn of the drain.
            await asyncio.wait({endpoint, leave}, return_when=asyncio.FIRST_COMPLETED)
            if not endpoint.done():
                await self._take_leave(endpoint)
        finally:
            leave.cancel()
            await _ended(endpoint)
        self._finish(endpoint)
        if self._place.leave.is_set():
            await self._close()  # the endpoint has left without a word to the client

    async def _take_leave(self, endpoint: "asyncio.Future[None]") -> None:
        await asyncio.wait([endpoint], timeout=_NOTICE)
        if endpoint.done():
            return
        await self._close()
        await asyncio.wait([endpoint], timeout=_CLEAN_UP)
        if not endpoint.done():
            _log.warning("%s: cancelled; it waited at %s", self._name, _place_of(endpoint))
            endpoint.cancel()

    async def _close(self) -> None:
        if self._is_over:
            return
        self._is_over = self._is_closed_by_us = True
        try:
            async with asyncio.timeout(_CLEAN_UP):
                await self._stop_reading()
                await self._inner_send(_GOODBYE)
        except Exception as exc:  # servers raise different things for a client that has left
            _log.debug("%s: not closed (%r)", self._name, exc)

    async def _stop_reading(self) -> None:
        """Let a pending `receive` return first: granian sends no close frame beside one."""
        for limit in self._reading:
            limit.reschedule(0.0)
        while self._reading:  # noqa: ASYNC110 - a tick or two, within the limit of the caller
            await asyncio.sleep(0)

    def _finish(self, endpoint: "asyncio.Future[None]") -> None:
        """Raise what the endpoint raised, unless its socket was closed under it."""
        error = None if endpoint.cancelled() else endpoint.exception()
        if error is None:
            return
        if not self._is_closed_by_us:
            raise error
        _log.debug("%s: ended with %r once it was closed", self._name, error)

    async def _receive(self) -> Message:
        if self._is_closed_by_us:
            return dict(_GONE)
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._reading.add(limit)
                message = await self._inner_receive()
        except TimeoutError:
            if not limit.expired():
                raise
            return dict(_GONE)
        finally:
            self._reading.discard(limit)
        if message["type"] == "websocket.disconnect":
            self._is_over = True
        return message

    async def _send(self, message: Message) -> None:
        if self._is_closed_by_us:
            # ASGI 2.4; Starlette makes WebSocketDisconnect of it.
            raise ConnectionAbortedError("the service restarts: the WebSocket is closed")
        if message["type"] == "websocket.close":
            self._is_over = True
        await self._inner_send(message)


async def _ended(endpoint: "asyncio.Future[None]") -> None:
    """Wait until the endpoint has ended; cancelled meanwhile, cancel it and wait on.

    No limit: the drain gives up on the request that this is a part of, if it must.
    """
    cancelled: asyncio.CancelledError | None = None
    while not endpoint.done():
        try:
            await asyncio.wait([endpoint])
        except asyncio.CancelledError as exc:
            cancelled = exc
            endpoint.cancel()
    if cancelled is not None:
        raise cancelled


def _place_of(endpoint: "asyncio.Future[Any]") -> str:
    return waiting_place(endpoint) if isinstance(endpoint, asyncio.Task) else "an unknown place"
