"""`SSEResponse`: server-sent events that end politely."""

import random
from collections.abc import AsyncIterable, Mapping
from typing import Any, Literal

from starlette.responses import Response

from stormproof._arguments import check_seconds
from stormproof._core.asgi import Receive, Scope, Send, request_name
from stormproof.errors import InvalidSetting

from ._answer import answer_head, deliver
from ._delivery import Plan
from ._event import ServerEvent, encode_item
from ._json import json_encoder
from ._typed import EventNames

_BEAT = b": keep-alive\n\n"
_FAILURE = ServerEvent({"error": "the stream failed"}, event="error")

_COME_BACK_MS = (1_000, 5_000)
"""Subscribers of a server that drains come back within these milliseconds, each at its own."""


class SSEResponse(Response):
    """A stream of server-sent events; return it from an endpoint.

    How it ends:

    - The source is over: the final chunk (`StreamEnded.reason` "finished").
    - The client leaves: the source is closed; not an error ("left").
    - A drain begins: the event on its way is sent, then `event: drain` with a `retry:` of 1 to
      5 s, then the final chunk ("drain").
    - The source raises: `event: error` without details, and **no** final chunk: the client sees
      a broken connection, and failure never looks like completion. The exception goes on to the
      server, which logs it ("failed").
    - The source yields nothing for `idle_timeout` seconds: the same as if it had raised ("idle").
    - The reader takes nothing for `send_timeout` seconds: no final chunk ("stalled").
    - The task is cancelled, by a deadline or the end of the grace: no final chunk ("deadline").

    In each case the source is closed (its `finally` blocks run and are awaited), and no task
    is left. The source runs in a task of its own, from its first item to its closing; a silent
    source is never cancelled for a heartbeat.

    Without `stormproof.install` there is no drain to follow; all the rest is the same.

    Args:
        source: What to send: `ServerEvent`, str, bytes (encoded events), or anything that can
            be written as JSON. Usually an async generator. A model or dataclass with a field
            `event: Literal["name"]` is sent as an event of that name.
        heartbeat: Seconds without an event after which the comment `: keep-alive` is sent, so
            that proxies keep the connection and a client that vanished is noticed.
        retry_ms: Milliseconds a browser waits before it connects again, sent at the beginning;
            None leaves that to the browser.
        on_drain: "leave" for an endless stream; "finish" for a finite one (tokens of a model),
            which goes on until it is over or the grace is.
        send_timeout: Seconds the reader may take nothing. In a drain: 1 s, or this if less.
        idle_timeout: Seconds the source may take for an event, whatever heartbeats are sent; None
            for any number. The deadline of a request ends with its first byte: this takes over.
        headers: More response headers; one of the same name replaces ours.
        status_code: The status of the response.

    Raises:
        InvalidSetting: An argument is out of its range.

    versionadded: 0.1
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        source: AsyncIterable[Any],
        *,
        heartbeat: float = 15.0,
        retry_ms: int | None = None,
        on_drain: Literal["leave", "finish"] = "leave",
        send_timeout: float = 30.0,
        idle_timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        status_code: int = 200,
    ) -> None:
        check_source("SSEResponse", source)
        check_seconds("SSEResponse", heartbeat=heartbeat, send_timeout=send_timeout)
        check_seconds("SSEResponse", or_none=True, idle_timeout=idle_timeout)
        if on_drain not in ("leave", "finish"):
            raise InvalidSetting(f"SSEResponse(on_drain={on_drain!r}) must be 'leave' or 'finish'")
        self._source = source
        self._to_json = json_encoder()
        self._names = EventNames()
        self._heartbeat = heartbeat
        self._opening = b"" if retry_ms is None else ServerEvent(retry_ms=retry_ms).encode()
        self._leaves_on_drain = on_drain == "leave"
        self._send_timeout = send_timeout
        self._idle_timeout = idle_timeout
        self.status_code = status_code
        self.background = None
        self.init_headers(headers)
        # no-transform: a proxy that compresses would hold events back, as nginx would buffer them.
        self.headers.setdefault("cache-control", "no-store, no-transform")
        self.headers.setdefault("x-accel-buffering", "no")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response; ends, raises and cleans up as the class says. HEAD: headers only."""
        plan = self._plan(scope)
        if scope["method"] == "HEAD":
            await answer_head(plan, send)
        else:
            await deliver(plan, scope, receive, send, leaves_on_drain=self._leaves_on_drain)
        if self.background is not None:
            await self.background()

    def encode(self, item: Any) -> bytes:
        """Return the bytes of what the source has yielded; a subclass may do it in its way."""
        return encode_item(item, self._to_json, self._names)

    def _plan(self, scope: Scope) -> Plan:
        return Plan(
            name=request_name(scope),
            source=self._source,
            encode=lambda item: (self.encode(item),),
            start={
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            },
            opening=self._opening,
            send_timeout=self._send_timeout,
            idle_timeout=self._idle_timeout,
            sends_per_tick=32,
            heartbeat=self._heartbeat,
            beat=_BEAT,
            farewell=_farewell,
            failure=_FAILURE.encode(),
        )


def check_source(response: str, source: object) -> None:
    """Raise InvalidSetting when `source` cannot be iterated with `async for`."""
    if not hasattr(source, "__aiter__"):
        raise InvalidSetting(
            f"{response}(source) must be an async iterable, for example an async generator that "
            f"was called; got {type(source).__name__}"
        )


def _farewell() -> bytes:
    retry = random.randint(*_COME_BACK_MS)
    return ServerEvent({"reason": "drain"}, event="drain", retry_ms=retry).encode()
