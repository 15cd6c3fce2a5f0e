"""Wires: how an event looks on a connection, as server-sent events or as WebSocket messages."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from stormproof._core.asgi import Headers, Message

from ._event import ServerEvent


class Encode(Protocol):
    """From an event's fields to its bytes (or text); None for what it has not."""

    def __call__(
        self,
        *,
        id: str | None = None,
        event: str | None = None,
        data: str | None = None,
        retry_ms: int | None = None,
        comment: str | None = None,
    ) -> Any:
        """Return the whole event as it is sent."""


@dataclass(frozen=True, slots=True, eq=False)
class Wire:
    """One kind of connection.

    Attributes:
        start: From the response's headers to the message that begins it.
        encode: From an event's fields to the payload of a message.
        message: From a payload to the ASGI message.
        final: From the reason of an end to the message that completes the response.
        cut: What is sent when the stream has failed, so that nobody completes the response:
            BaseHTTPMiddleware would, and raises instead for a message that it does not know.
        disconnected: The type of the message in which `receive` says that the client left.
        is_joinable: Whether two payloads may be sent as one.
    """

    start: Callable[[Headers], Message]
    encode: Encode
    message: Callable[[Any], Message]
    final: Callable[[str], Message]
    cut: tuple[Message, ...]
    disconnected: str
    is_joinable: bool


def _encode_sse(
    *,
    id: str | None = None,
    event: str | None = None,
    data: str | None = None,
    retry_ms: int | None = None,
    comment: str | None = None,
) -> bytes:
    return ServerEvent(data, event=event, id=id, retry_ms=retry_ms, comment=comment).encode()


def _response_start(headers: Headers) -> Message:
    return {"type": "http.response.start", "status": 200, "headers": headers}


def _body(payload: bytes) -> Message:
    # A new one each time: middleware (GZipMiddleware is one) changes the message it is given.
    return {"type": "http.response.body", "body": payload, "more_body": True}


def _last_body(reason: str) -> Message:
    return {"type": "http.response.body", "body": b"", "more_body": False}


def _encode_websocket(
    *,
    id: str | None = None,
    event: str | None = None,
    data: str | None = None,
    retry_ms: int | None = None,
    comment: str | None = None,
) -> str:
    fields = {"id": id, "event": event, "data": data, "retry": retry_ms}
    return json.dumps({name: value for name, value in fields.items() if value is not None})


def _accept(headers: Headers) -> Message:
    return {"type": "websocket.accept"}


def _text(payload: str) -> Message:
    return {"type": "websocket.send", "text": payload}


_CLOSE_CODES = {"drain": 1012, "expired": 1008}
"""Service restart, and policy violation, for a client that has to show itself again; else 1000."""


def _close(reason: str) -> Message:
    return {"type": "websocket.close", "code": _CLOSE_CODES.get(reason, 1000), "reason": reason}


SSE = Wire(
    start=_response_start,
    encode=_encode_sse,
    message=_body,
    final=_last_body,
    cut=({"type": "http.response.truncate"},),
    disconnected="http.disconnect",
    is_joinable=True,
)
WEBSOCKET = Wire(
    start=_accept,
    encode=_encode_websocket,
    message=_text,
    final=_close,
    cut=({"type": "websocket.close", "code": 1011, "reason": "failed"},),
    disconnected="websocket.disconnect",
    is_joinable=False,
)
