"""Read limits: how long a client may take to send a request's head, and to go on with its body."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import h11
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.http.h11_impl import H11Protocol

from stormproof.errors import InvalidSetting

_log = logging.getLogger("stormproof")

_TIMED_OUT = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"  # RFC 9110
)
_LAST_MOMENT = 1.0
"""Seconds that a closed connection gets to go: a client that does not answer the end of TLS
would else keep it for 30 s more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLimits:
    """How long the server waits for what a client has begun to send; both in seconds.

    Attributes:
        header_timeout: From the connect, or on a connection that is kept from the first byte
            of a request, until its head is whole. Bytes that trickle in do not extend it.
        body_timeout: The longest pause in a request's body.
    """

    header_timeout: float = 10.0
    body_timeout: float = 15.0

    def __post_init__(self) -> None:
        for name in ("header_timeout", "body_timeout"):
            seconds = getattr(self, name)
            if not 0 < seconds < float("inf"):
                option = "--" + name.replace("_", "-")
                raise InvalidSetting(
                    f"{option} must be a number of seconds, more than 0; got {seconds!r}"
                )


def limited_protocol(
    limits: ReadLimits, *, base: type[asyncio.Protocol] = AutoHTTPProtocol
) -> type[asyncio.Protocol]:
    """Return uvicorn's HTTP/1 protocol with `limits`, to be given as `Config(http=...)`.

    `base` is httptools where that is installed, h11 elsewhere, as uvicorn chooses by itself.
    A client that is too late gets 408 and is closed; one that never sent a byte is closed
    without a word, because a browser would take a 408 for the answer to its next request.
    While the app holds the body back (it has not read what came, or an answer is on its way)
    the client is not late.
    """
    mixin = _H11Limited if issubclass(base, H11Protocol) else _HttpToolsLimited
    return type(f"Limited{base.__name__}", (mixin, base), {"limits": limits})


_Awaited = Literal["head", "body", None]


class _Limited:
    """What both protocols share; stands before uvicorn's class, whose attributes are foreign."""

    limits: ClassVar[ReadLimits]

    # uvicorn's protocol, whichever it is:
    loop: asyncio.AbstractEventLoop
    transport: Any
    flow: Any
    cycle: Any
    timeout_keep_alive_task: asyncio.TimerHandle | None

    _awaited: _Awaited = None
    _timer: asyncio.TimerHandle | None = None
    _read_at = 0.0
    _has_received = False
    _is_handed_over = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._has_received = True
        super().data_received(data)  # type: ignore[misc]
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()  # type: ignore[misc]
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set(None)
        super().connection_lost(exc)  # type: ignore[misc]

    def handle_websocket_upgrade(self, *request: Any) -> None:
        self._is_handed_over = True  # the next protocol has its own limits
        super().handle_websocket_upgrade(*request)  # type: ignore[misc]

    def _is_in_head(self) -> bool:
        """Whether the first bytes of a request have come, and its head is not whole."""
        raise NotImplementedError

    def _is_in_body(self) -> bool:
        """Whether a request's head is whole and its body is not."""
        raise NotImplementedError

    def _watch(self) -> None:
        awaited = self._what_is_awaited()
        if awaited == "body":
            self._read_at = self.loop.time()
        if awaited != self._awaited:
            self._set(awaited)

    def _what_is_awaited(self) -> _Awaited:
        if self._is_handed_over or self.transport.is_closing():
            return None
        if self._is_in_body():
            return "body"
        if self.cycle is not None and not self.cycle.response_complete:
            return None
        is_idle = self.timeout_keep_alive_task is not None  # and so limited by uvicorn
        return None if is_idle and not self._is_in_head() else "head"

    def _set(self, awaited: _Awaited) -> None:
        self._awaited = awaited
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if awaited == "head":
            self._timer = self.loop.call_later(self.limits.header_timeout, self._close)
        elif awaited == "body":
            self._timer = self.loop.call_later(self.limits.body_timeout, self._check_body)

    def _check_body(self) -> None:
        # One timer for the whole body: it is not set anew for each piece, but looks when due.
        limit = self.limits.body_timeout
        left = self._read_at + limit - self.loop.time()
        if left <= 0 and self._is_clients_turn():
            self._close()
        else:
            self._timer = self.loop.call_later(left if left > 0 else limit, self._check_body)

    def _is_clients_turn(self) -> bool:
        cycle = self.cycle
        is_answering = cycle.response_started and not cycle.response_complete
        return not (self.flow.read_paused or cycle.waiting_for_100_continue or is_answering)

    def _close(self) -> None:
        what = "head" if self._awaited == "head" else "body"
        self._set(None)
        if self.transport.is_closing():
            return
        _log.debug("closing %s: its request's %s did not come in time", self._peer(), what)
        cycle = self.cycle
        if self._has_received and (what == "head" or not cycle.response_started):
            self.transport.write(_TIMED_OUT)
        if cycle is not None and not cycle.response_complete:
            # At once, not when the transport has closed: the app must not wait, nor answer.
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()
        self.loop.call_later(_LAST_MOMENT, self.transport.abort)

    def _peer(self) -> str:
        return str(self.transport.get_extra_info("peername"))


class _HttpToolsLimited(_Limited):
    """Knows by the parser's callbacks whether a message has begun and ended."""

    scope: Any
    _is_message_open = False

    def on_message_begin(self) -> None:
        self._is_message_open = True
        super().on_message_begin()  # type: ignore[misc]

    def on_message_complete(self) -> None:
        self._is_message_open = False
        super().on_message_complete()  # type: ignore[misc]

    def _is_in_head(self) -> bool:
        return self._is_message_open and not self._has_head()

    def _is_in_body(self) -> bool:
        return self._is_message_open and self._has_head()

    def _has_head(self) -> bool:
        # Each message has a scope of its own, which becomes a cycle's when the head is whole.
        return self.cycle is not None and self.cycle.scope is self.scope


class _H11Limited(_Limited):
    """Asks h11 which state the client is in."""

    conn: Any

    def _is_in_head(self) -> bool:
        return self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])

    def _is_in_body(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY
