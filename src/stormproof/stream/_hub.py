"""`Hub`: publish once, and thousands of subscribers have it, or are told what they missed."""

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, overload

from stormproof._arguments import check_count, check_seconds
from stormproof._core.asgi import ASGIApp, Headers, Message, Receive, Scope, Send, send_answer
from stormproof._core.lifecycle import Lifecycle, Loss
from stormproof._core.primitives import register
from stormproof.errors import BusUnavailable, InvalidSetting, StormproofError

from ._backlog import Policy
from ._bus import Bus, Entry, Position, Session, TransactionalBus
from ._json import json_encoder
from ._memory import MemoryBus
from ._service import HubService, HubSettings
from ._subscription import (
    HubResponse,
    Subscription,
    check_policy,
    subscription_of,
)
from ._terms import Filter
from ._wire import SSE, WEBSOCKET

_OWN_EVENTS = ("drain", "expired", "gap", "reset")

_BEHIND_WAIT = 1.0
"""Seconds a publisher waits, at most, for a fan-out that is far behind it."""


class WebSocket(Protocol):
    """What a hub uses of Starlette's `WebSocket`."""

    scope: Scope

    async def accept(self) -> None:
        """Accept the handshake."""

    async def receive(self) -> Message:
        """Wait for the next ASGI message."""

    async def send(self, message: Message) -> None:
        """Send an ASGI message."""


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """What a hub does in this process.

    Attributes:
        subscribers: Streams that are open.
        delivered: Events handed to connections since the hub opened.
        dropped: Events dropped for slow readers, who are told so as soon as they read on.
        position: The id of the newest event that was read; None before the first contact.
    """

    subscribers: int
    delivered: int
    dropped: int
    position: str | None


class Hub:
    """One log of events, and the subscribers of this process.

    A part of the service: `install(app, hub)`. Without `install` it works, too: it reads the
    bus while it has subscribers; or `async with hub:` in the app's own lifespan.

    How a subscriber's stream ends (`StreamEnded.reason`):

    - The client leaves ("left").
    - The service drains: `event: drain` with a `retry:` of 1 to 5 s, the final chunk ("drain").
      The same for `max_age` ("age"), and for a deadline that holds for the body ("deadline").
    - `expires_at` has come: `event: expired`, the final chunk ("expired").
    - The event `ends_on` was sent: the final chunk ("finished").
    - The reader takes nothing for `send_timeout` seconds, or is too far behind and the policy is
      "close": no final chunk ("stalled").
    - The filter raises: `event: error`, no final chunk ("failed").

    What a client has not got, it is told: `event: gap` says how many events were dropped for a
    slow reader, and the first and last of their ids; `event: reset` says that what came before
    cannot be read any more, or that the id was none of this log, and the page has to begin anew.
    Everything else comes exactly once and in order, across reconnects with `Last-Event-ID`.

    Args:
        bus: Where events are kept; None: a `MemoryBus`, for one process.
        name: What log lines and error messages call it.
        replay: How many events stay in memory for clients that resume.
        heartbeat: Seconds of silence, at most, after which a comment is sent, with the id of
            the newest event: who hears little can resume all the same.
        max_age: Seconds after which a stream is ended, so that clients spread over new
            processes; each at 80 to 100 % of it. None: never.
        policy: What happens when a reader is further behind than `queue_frames` or
            `queue_bytes`: "drop-oldest"; "coalesce", where an event takes out the older one of
            its key as soon as the reader is behind; or "close".
        queue_frames: Events that may wait for one reader.
        queue_bytes: Bytes they may have; the server's and the kernel's buffers come on top.
        send_timeout: Seconds a reader may take nothing. While the stream ends: 1 s.
        max_subscribers: Streams that may be open; who comes then gets 503.

    Raises:
        InvalidSetting: An argument is out of its range.

    versionadded: 0.1
    """

    def __init__(
        self,
        bus: Bus | None = None,
        *,
        name: str = "hub",
        replay: int = 1000,
        heartbeat: float = 15.0,
        max_age: float | None = None,
        policy: Policy = "drop-oldest",
        queue_frames: int = 256,
        queue_bytes: int = 32_768,
        send_timeout: float = 30.0,
        max_subscribers: int = 20_000,
    ) -> None:
        check_count("Hub", replay=replay, queue_frames=queue_frames, queue_bytes=queue_bytes)
        check_count("Hub", max_subscribers=max_subscribers)
        check_seconds("Hub", heartbeat=heartbeat, send_timeout=send_timeout)
        check_seconds("Hub", or_none=True, max_age=max_age)
        check_policy(policy)
        self._bus: Bus = MemoryBus(keep=replay) if bus is None else bus
        self._settings = HubSettings(
            name=name,
            replay=replay,
            heartbeat=heartbeat,
            max_age=math.inf if max_age is None else max_age,
            policy=policy,
            queue_frames=queue_frames,
            queue_bytes=queue_bytes,
            send_timeout=send_timeout,
            max_subscribers=max_subscribers,
        )
        self._service = HubService(self._bus, self._settings)
        self._to_json = json_encoder()
        register("hub", self)

    @property
    def name(self) -> str:
        """What log lines and error messages call it."""
        return self._settings.name

    # A part of the service -----------------------------------------------------------------

    async def open(self, lifecycle: Lifecycle | None = None) -> None:
        """Begin to read the bus; waits for the first contact, some seconds at most.

        Raises:
            BusUnavailable: There was none.
        """
        await self._service.open(None if lifecycle is None else lifecycle.events)

    async def drain(self, until: float) -> Sequence[Loss]:
        """Do nothing: streams have left in their turn, and what is published is in the bus."""
        return ()

    async def close(self) -> None:
        """End the reader and close the bus; streams that are left get nothing any more."""
        await self._service.close()
        await self._bus.close()

    async def __aenter__(self) -> "Hub":
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # Publishing ------------------------------------------------------------------------------

    @overload
    async def publish(
        self, topic: str, data: Any, *, event: str | None = None, key: str | None = None
    ) -> Position: ...

    @overload
    async def publish(
        self,
        topic: str,
        data: Any,
        *,
        event: str | None = None,
        key: str | None = None,
        session: Session,
    ) -> None: ...

    async def publish(
        self,
        topic: str,
        data: Any,
        *,
        event: str | None = None,
        key: str | None = None,
        session: Session | None = None,
    ) -> Position | None:
        """Append one event to the log, and return its position, whose str is its id.

        When this returns, the bus has it: whoever is connected, or comes back, gets it. Waits
        for the bus; and up to a second when this process sends out much slower than it
        publishes. Cancelled: it may have been published.

        Args:
            topic: Who gets it: the subscribers of this topic.
            data: A str is sent as it is, anything else as one line of JSON.
            event: Its name, which a page listens to; None: "message". "drain", "expired",
                "gap" and "reset" are the hub's own.
            key: What it is the newest state of, for readers that are behind and coalesce.
            session: SQLAlchemy's AsyncSession, on a bus in its database: the event is published
                by the COMMIT of its transaction and never without it. There is no position yet.

        Raises:
            BusUnavailable: The bus did not take it.
            PublishUnknown: The bus went away while it took it.
            InvalidSetting: `event` is no line, or one of the hub's own; `session` is given and
                the bus cannot publish in it.
            NotStarted: The hub is closed.
        """
        self._service.check_open()
        if event is not None and (event in _OWN_EVENTS or "\n" in event or "\r" in event):
            raise InvalidSetting(
                f"publish(event={event!r}) must be one line, and none of {', '.join(_OWN_EVENTS)}"
            )
        text = data if isinstance(data, str) else self._to_json(data).decode()
        entry = Entry(topic, text, event=event, key=key)
        if session is not None:
            await self._append_in(session, entry)
            return None
        try:
            position = await self._bus.append(entry)
        except StormproofError:
            raise
        except Exception as exc:
            raise BusUnavailable(
                f"hub {self.name!r} could not publish to {topic!r}: {type(exc).__name__}: {exc}",
                retry_after=1.0,
            ) from exc
        feed = self._service.feed
        if feed is not None and isinstance(self._bus, MemoryBus):
            # Its offsets count events, and what the reader has not come to it must not drop.
            due = position.offset - self._settings.replay // 2
            await feed.caught_up(due, max_wait=_BEHIND_WAIT)
        return position

    async def _append_in(self, session: Session, entry: Entry) -> None:
        if not isinstance(self._bus, TransactionalBus):
            raise InvalidSetting(
                f"publish(session=...): hub {self.name!r} has a {type(self._bus).__name__}, which "
                "cannot publish in a transaction; use a PostgresBus"
            )
        await self._bus.append_in(session, entry)

    # Subscribing -----------------------------------------------------------------------------

    def response(
        self,
        topics: Iterable[str],
        *,
        last_event_id: str | None = None,
        filter: Filter | None = None,
        expires_at: float | datetime | None = None,
        policy: Policy | None = None,
        finish_on_drain: bool = False,
        ends_on: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HubResponse:
        """Return the stream of one subscriber, to be returned from an endpoint.

        A client that comes back with `Last-Event-ID`, as a header or as `?last_event_id=`, gets
        what it missed, and then what is new.

        Args:
            topics: What it gets.
            last_event_id: What the client wants to resume after, if it says so elsewhere.
            filter: Called with each event (`Published`) of the topics: True to send it, False
                not to, a str to send in place of its data. It must not wait. What raises ends
                the stream.
            expires_at: When the client's permission ends: the `exp` of its token (seconds since
                1970), or a datetime with a time zone.
            policy: The hub's, if None.
            finish_on_drain: For a stream that completes by itself, see `ends_on`: a drain lets
                it go on as long as its grace lasts.
            ends_on: The name of the event that is the last one.
            headers: More response headers; one of the same name replaces ours.

        Raises:
            InvalidSetting: An argument cannot be used.
        """
        subscription = subscription_of(
            topics,
            last_event_id=last_event_id,
            filter=filter,
            expires_at=expires_at,
            policy=policy,
            finish_on_drain=finish_on_drain,
            ends_on=ends_on,
        )
        return HubResponse(self._serve, subscription, headers)

    def asgi(
        self, topics: Iterable[str] | Callable[[Scope], Iterable[str]], **options: Any
    ) -> ASGIApp:
        """Return an ASGI app that streams, to be mounted: the cheapest subscriber there is.

        Args:
            topics: What each subscriber gets; or a function from the ASGI scope to that.
                Nothing: the answer is 404.
            **options: As those of `response`.

        Raises:
            InvalidSetting: An argument cannot be used.
        """
        fixed = self.response([""] if callable(topics) else topics, **options)

        # No plain function: uvicorn would take it for an ASGI 2 application.
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                raise InvalidSetting(f"hub {self.name!r} is mounted for HTTP, not {scope['type']}")
            if scope["method"] not in ("GET", "HEAD"):
                await send_answer(send, 405, [(b"allow", b"GET, HEAD")], b"")
                return
            response = fixed
            if callable(topics):
                names = list(topics(scope))
                if not names:
                    await send_answer(send, 404, [], b"")
                    return
                response = self.response(names, **options)
            await response(scope, receive, send)

        return app

    async def websocket(self, websocket: WebSocket, topics: Iterable[str], **options: Any) -> None:
        """Accept a WebSocket and send it events, until it closes or the stream ends.

        Each event is one text message: `{"id": ..., "event": ..., "data": ...}`, `data` being
        the text that an EventSource would have. What the client sends is ignored. Waits, ends
        and raises as a response; with too many subscribers it is closed with 1013.

        Args:
            websocket: What the endpoint was given, not accepted yet.
            topics: What it gets.
            **options: As those of `response`.
        """
        subscription = subscription_of(topics, **options)
        serve, receive, send = self._service.serve, websocket.receive, websocket.send
        await serve(subscription, (), websocket.scope, receive, send, WEBSOCKET)

    def statistics(self) -> HubStatistics:
        """Return what the hub does in this process."""
        feed, subscribers = self._service.feed, self._service.subscribers
        if feed is None:
            return HubStatistics(subscribers, 0, 0, None)
        position = None if feed.position is None else str(feed.position)
        return HubStatistics(subscribers, feed.delivered, feed.dropped, position)

    # -------------------------------------------------------------------------------------------

    def _serve(
        self,
        subscription: Subscription,
        headers: Headers,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> Awaitable[None]:
        return self._service.serve(subscription, headers, scope, receive, send, SSE)
