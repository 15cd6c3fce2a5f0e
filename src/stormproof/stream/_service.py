"""The service of a hub: its feed while there is use for it, and its subscribers, counted."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from stormproof._core.asgi import (
    LIFECYCLE_KEY,
    Headers,
    Receive,
    Scope,
    Send,
    request_name,
    send_answer,
)
from stormproof._core.events import Events, StreamEnded, StreamOpened
from stormproof._core.lifecycle import Lifecycle, StreamPlace
from stormproof.errors import (
    HubFull,
    NotStarted,
    StormproofError,
    problem_body,
    problem_headers,
)

from ._answer import raise_reported
from ._backlog import Policy
from ._bus import Bus
from ._feed import Feed
from ._idle import slim
from ._subscriber import Subscriber
from ._subscription import Subscription, Turn, asked_id
from ._terms import Terms
from ._wire import SSE, Wire


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """What all subscribers of a hub have in common; the arguments of `Hub`, checked."""

    name: str
    replay: int
    heartbeat: float
    max_age: float
    policy: Policy
    queue_frames: int
    queue_bytes: int
    send_timeout: float
    max_subscribers: int


class HubService:
    """Serves the connections of one hub.

    The feed runs from `open` to `close`; without `open`, while there are subscribers.

    Args:
        bus: The hub's bus.
        settings: The hub's settings.

    Attributes:
        subscribers: Streams that are open.
        feed: What reads the bus, if it does.
    """

    def __init__(self, bus: Bus, settings: HubSettings) -> None:
        self._bus = bus
        self._settings = settings
        self._events: Events | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_open = False
        self._is_closed = False
        self.subscribers = 0
        self.feed: Feed | None = None

    async def open(self, events: Events | None) -> None:
        """Begin to read the bus; waits and raises as `Feed.wait_known`."""
        self._events = events
        self._is_open, self._is_closed = True, False
        try:
            await self._running_feed().wait_known()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End the feed; streams that are left get nothing any more."""
        self._is_open, self._is_closed = False, True
        await self._stop_feed()

    def check_open(self) -> None:
        """Raise NotStarted when the hub was closed."""
        if self._is_closed:
            raise NotStarted(
                f"hub {self._settings.name!r} is closed; open it, or pass it to install()"
            )

    async def serve(
        self,
        subscription: Subscription,
        headers: Headers,
        scope: Scope,
        receive: Receive,
        send: Send,
        wire: Wire,
    ) -> None:
        """Serve one connection to its end; ends and raises as `Hub` says, and leaves nothing."""
        try:
            self._check_room()
        except StormproofError as error:
            await _refuse(error, wire, send)
            return
        self.subscribers += 1
        try:
            feed = self._running_feed()
            try:
                await feed.wait_known()
            except StormproofError as error:
                await _refuse(error, wire, send)
                return
            slim(scope, receive)
            terms = self._terms(subscription, headers, scope, wire)
            subscriber = Subscriber(feed, terms, receive, send)
            leave = _enter(subscriber, subscription, scope, terms.name)
            try:
                await subscriber.run()
            except Exception as exc:
                raise_reported(exc, scope)
            finally:
                leave()
        finally:
            self.subscribers -= 1
            if not self.subscribers and not self._is_open:
                await self._stop_feed()

    def _check_room(self) -> None:
        self.check_open()
        settings = self._settings
        if self.subscribers >= settings.max_subscribers:
            raise HubFull(
                f"hub {settings.name!r} has {self.subscribers} subscribers, which is all it may "
                "have; raise max_subscribers, or add a process",
                retry_after=random.uniform(1, 5),
            )

    def _terms(
        self, subscription: Subscription, headers: Headers, scope: Scope, wire: Wire
    ) -> Terms:
        settings = self._settings
        now = asyncio.get_running_loop().time()
        ends_at, because = now + settings.max_age * random.uniform(0.8, 1.0), "age"
        if subscription.expires_at is not None:
            expires_at = now + subscription.expires_at - time.time()
            if expires_at < ends_at:
                ends_at, because = expires_at, "expired"
        return Terms(
            name=request_name(scope),
            topics=subscription.topics,
            headers=headers,
            wire=wire,
            last_event_id=subscription.last_event_id or asked_id(scope),
            filter=subscription.filter,
            policy=subscription.policy or settings.policy,
            queue_frames=settings.queue_frames,
            queue_bytes=settings.queue_bytes,
            send_timeout=settings.send_timeout,
            heartbeat=settings.heartbeat,
            ends_at=ends_at,
            ends_because=because,
            ends_on=subscription.ends_on,
        )

    def _running_feed(self) -> Feed:
        loop, settings = asyncio.get_running_loop(), self._settings
        if self.feed is None or self._loop is not loop:
            self._loop = loop
            tick = min(0.25, settings.heartbeat / 8)
            self.feed = Feed(
                settings.name, self._bus, keep=settings.replay, tick=tick, events=self._events
            )
        return self.feed

    async def _stop_feed(self) -> None:
        feed, self.feed = self.feed, None
        if feed is not None and self._loop is asyncio.get_running_loop():
            await feed.stop()


def _enter(
    subscriber: Subscriber, subscription: Subscription, scope: Scope, name: str
) -> Callable[[], None]:
    """Count `subscriber` among the open streams of the lifecycle, and tell of it.

    Returns what is to be called when it has ended: a coroutine around it would be one more frame
    in the memory of each subscriber.
    """
    lifecycle: Lifecycle | None = scope.get(LIFECYCLE_KEY)
    if lifecycle is None:
        return _nothing
    opened_at = lifecycle.clock.now()
    turn = Turn(lambda: subscriber.end("drain"))
    place = StreamPlace(name, opened_at, turn)
    if scope["type"] == "http" and not subscription.finish_on_drain:
        lifecycle.streams.add(place)
        if lifecycle.is_draining:
            turn.set()  # the drain may have asked the others already
    lifecycle.events.emit(StreamOpened(name))

    def leave() -> None:
        lifecycle.streams.discard(place)
        age = lifecycle.clock.now() - opened_at
        lifecycle.events.emit(StreamEnded(name, subscriber.reason, age))

    return leave


def _nothing() -> None:
    """Do what is left to do without a lifecycle."""


async def _refuse(error: StormproofError, wire: Wire, send: Send) -> None:
    if wire is SSE:
        await send_answer(send, error.status, problem_headers(error), problem_body(error))
    else:
        await send({"type": "websocket.close", "code": 1013, "reason": error.title})
