"""Subscriptions: what an endpoint asks a hub for, and the response that serves it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TypeAlias, get_args
from urllib.parse import parse_qs

from starlette.responses import Response

from stormproof._core.asgi import Headers, Receive, Scope, Send, header
from stormproof.errors import InvalidSetting

from ._backlog import Policy
from ._terms import Filter

_HEADERS = (
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"content-type", b"text/event-stream; charset=utf-8"),
)
"""nginx would hold events back, and a proxy that compresses would, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What one client is to get.

    Attributes:
        topics: Of which topics.
        last_event_id: After which event; None: what the client says.
        filter: Which events, and in which words.
        expires_at: Until when, in seconds since 1970.
        policy: What happens when it is behind; None: what the hub says.
        finish_on_drain: Whether it goes on while the service drains.
        ends_on: The name of the event that completes it.
    """

    topics: frozenset[str]
    last_event_id: str | None
    filter: Filter | None
    expires_at: float | None
    policy: Policy | None
    finish_on_drain: bool
    ends_on: str | None


def subscription_of(
    topics: Iterable[str],
    *,
    last_event_id: str | None = None,
    filter: Filter | None = None,
    expires_at: float | datetime | None = None,
    policy: Policy | None = None,
    finish_on_drain: bool = False,
    ends_on: str | None = None,
) -> Subscription:
    """Return the subscription, checked.

    Raises:
        InvalidSetting: Something is not what it has to be.
    """
    if isinstance(topics, str):
        raise InvalidSetting(f"topics={topics!r} must be a list of names; write [{topics!r}]")
    names = _same(frozenset(topics))
    if not names or not all(isinstance(name, str) for name in names):
        raise InvalidSetting(f"topics={topics!r} must be one name or more")
    check_policy(policy)
    if isinstance(expires_at, datetime):
        if expires_at.tzinfo is None:
            raise InvalidSetting(f"expires_at={expires_at!r} must have a time zone")
        expires_at = expires_at.timestamp()
    return Subscription(
        topics=names,
        last_event_id=last_event_id,
        filter=filter,
        expires_at=expires_at,
        policy=policy,
        finish_on_drain=finish_on_drain,
        ends_on=ends_on,
    )


@lru_cache(maxsize=256)
def _same(names: frozenset[str]) -> frozenset[str]:
    """Return the one that was used before, instead of 0.2 kB more for each subscriber."""
    return names


def check_policy(policy: Policy | None) -> None:
    """Raise InvalidSetting when `policy` is none that there is."""
    if policy is not None and policy not in get_args(Policy):
        known = ", ".join(map(repr, get_args(Policy)))
        raise InvalidSetting(f"policy={policy!r} must be one of {known}")


def asked_id(scope: Scope) -> str | None:
    """Return the id a client wants to resume after, from its header or its query, or None."""
    text = header(scope, b"last-event-id")
    query: bytes = scope.get("query_string", b"")
    if not text and b"last_event_id=" in query:
        text = parse_qs(query.decode("latin-1")).get("last_event_id", [""])[-1]
    return text or None


Serve: TypeAlias = Callable[[Subscription, Headers, Scope, Receive, Send], Awaitable[None]]


class HubResponse(Response):
    """The stream of one subscriber; made by `Hub.response`, to be returned from an endpoint."""

    media_type = "text/event-stream"

    def __init__(
        self, serve: Serve, subscription: Subscription, headers: Mapping[str, str] | None = None
    ) -> None:
        self._serve = serve
        self._subscription = subscription
        self.status_code = 200
        self.background = None
        # The pairs are shared: of an idle subscriber's memory they would be a twentieth.
        self.raw_headers = list(_HEADERS)
        for name, value in (headers or {}).items():
            self.headers[name] = value

    # A plain function: no frame of it stays in memory for each subscriber.
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override]
        """Send the stream; ends, raises and cleans up as `Hub` says. HEAD: headers only."""
        if scope["method"] == "HEAD":
            return _answer_head(self.raw_headers, send)
        return self._serve(self._subscription, self.raw_headers, scope, receive, send)


async def _answer_head(headers: Headers, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class Turn(asyncio.Event):
    """A turn to leave in the drain: it calls back, where waiting for it would take a task."""

    def __init__(self, on_set: Callable[[], None]) -> None:
        # Not `super().__init__()`: the queue of waiters, which nobody waits in, has 0.6 kB.
        self._on_set = on_set
        self._is_set = False

    def is_set(self) -> bool:
        """Return whether it is this stream's turn."""
        return self._is_set

    def set(self) -> None:
        """Call back, once."""
        if not self._is_set:
            self._is_set = True
            self._on_set()
