"""ASGI helpers: the types of the protocol, reading headers, and sending a whole answer."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

# Foreign dictionaries of the ASGI protocol: their values really are of any type.
Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = Iterable[tuple[bytes, bytes]]

LIFECYCLE_KEY = "stormproof.lifecycle"
"""Where the lifecycle travels in the scope, for responses that end politely at a drain."""

PLACE_KEY = "stormproof.place"
"""Where a WebSocket's `StreamPlace` travels in its scope: `leave` is its notice of the drain."""


class BodyLayer:
    """A middleware of ours whose object has the `send` that is given to the app inside.

    A stream calls the `send` behind it for each event, so what a layer only hands on can be
    skipped.
    """

    __slots__ = ()

    @property
    def body_send(self) -> Send | None:
        """Where body messages go unchanged from now on, but for the last; None: through here."""
        raise NotImplementedError


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first value of the header `name` (lower case), decoded as latin-1, or None."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def request_name(scope: Scope) -> str:
    """Return "GET /items/{id}": the method and the route's template, never an id.

    Before routing, and for paths that match no route, the raw path stands in its place.
    """
    # FastAPI (0.165) keeps included routers as they are: the route's own path lacks their prefix.
    included = scope.get("fastapi", {}).get("effective_route_context")
    path = getattr(included or scope.get("route"), "path", None) or scope.get("path", "")
    return f"{scope.get('method', scope['type'])} {path}"


async def send_answer(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send one whole response; waits as long as the server's `send` does."""
    fields = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})
