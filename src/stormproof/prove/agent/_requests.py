"""Requests: each one's beginning and end, the app's lifespan, and what the app is."""

import asyncio
import functools
import platform
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ._arrival import CURRENT, Arrival, Scope
from ._places import Places
from ._routes import Routes
from ._wire import Wire

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Call = Callable[[Any, Scope, Receive, Send], Awaitable[None]]

_PACKAGES = (
    "fastapi", "starlette", "uvicorn", "hypercorn", "granian", "gunicorn", "anyio", "uvloop",
    "sqlalchemy", "stormproof",
)  # fmt: skip


class Requests:
    """What every other part asks for: the route of the code that runs, the app's loop.

    Attributes:
        loop: Of the app, once it has begun to serve.
        is_described: Whether the app has been told of.
        limiter: anyio's limiter of threads in that loop.
        places: Which files are the app's.
        on_ready: Called once in the loop, when the app has started.
        on_end: Called with each arrival that left tasks behind, when it has ended.
    """

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.places = Places()
        self.on_ready: list[Callable[[], None]] = []
        self.on_end: list[Callable[[Arrival], None]] = []
        self.forked()

    def forked(self) -> None:
        """Begin anew in a child process."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self.limiter: Any = None
        self.routes: Routes | None = None
        self.is_described = False

    def where(self) -> tuple[str | None, int | None]:
        """Return route and id of the request that the running code belongs to."""
        arrival = CURRENT.get()
        return (None, None) if arrival is None else (self.name(arrival), arrival.id)

    def name(self, arrival: Arrival) -> str:
        """Return the route of a request, "GET /items/{id}"."""
        if self.routes is None:
            return arrival.name or f"{arrival.method} {arrival.path}"
        return self.routes.name(arrival)

    def begin(self, app: Any) -> None:
        """Open the wire before the first call of the app; later calls do nothing."""
        if self.loop is not None:
            return
        self.loop = asyncio.get_running_loop()
        self.routes = Routes(app)
        threads = sys.modules.get("anyio.to_thread")
        if threads is not None:
            self.limiter = threads.current_default_thread_limiter()
        self.wire.open()

    def describe(self) -> None:
        """Say once what the app is and what routes it has."""
        if self.is_described or self.loop is None or self.routes is None:
            return
        self.is_described = True
        self.places.belong(self.routes.endpoints())
        kind = type(self.loop)
        ready = {
            "loop": f"{kind.__module__}.{kind.__qualname__}",
            "python": platform.python_version(),
            "versions": _versions(),
            "thread_limit": None if self.limiter is None else self.limiter.total_tokens,
        }
        self.wire.emit("ready", ready)
        self.wire.emit("routes", {"routes": self.routes.facts()})
        for call in self.on_ready:
            call()

    def ended(self, arrival: Arrival, how: str, error: BaseException | None) -> None:
        """Report the end of a request that the client has numbered."""
        arrival.name_it(self.name(arrival))
        if arrival.tasks or arrival.promised:
            for call in self.on_end:
                call(arrival)
        if arrival.id is None or arrival.method == "WEBSOCKET":
            return
        facts = {
            "id": arrival.id,
            "route": arrival.name,
            "began": arrival.began,
            "ended": time.monotonic(),
            "status": arrival.status,
            "how": how,
            "error": None if error is None else repr(error)[:500],
        }
        self.wire.emit("request", facts)


def patch_starlette(module: Any, requests: Requests) -> None:
    """Wrap `Starlette.__call__`; an app inside another app is left alone."""
    original: Call = module.Starlette.__call__

    @functools.wraps(original)
    async def call(app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        outer = scope.get("app")
        if not requests.wire.is_live or (outer is not None and outer is not app):
            return await original(app, scope, receive, send)
        if scope["type"] == "lifespan":
            requests.begin(app)
            receive, send = _lifespan_told(requests, receive, send)
            return await original(app, scope, receive, send)
        if not requests.is_described:
            requests.begin(app)
            requests.describe()
        arrival = Arrival(scope)
        token = CURRENT.set(arrival)
        how, failure = "returned", None

        def send_noting(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                arrival.status = message["status"]
            return send(message)

        try:
            return await original(app, scope, receive, send_noting)
        except asyncio.CancelledError:
            how = "cancelled"
            raise
        except BaseException as error:
            how, failure = "raised", error
            raise
        finally:
            CURRENT.reset(token)
            requests.ended(arrival, how, failure)
            failure = None  # the traceback must not hold its own frame

    module.Starlette.__call__ = call


def _lifespan_told(requests: Requests, receive: Receive, send: Send) -> tuple[Receive, Send]:
    wire = requests.wire

    async def receive_noting() -> Message:
        message = await receive()
        if message["type"] == "lifespan.startup":
            wire.emit("lifespan", {"phase": "starting"})
        elif message["type"] == "lifespan.shutdown":
            wire.emit("lifespan", {"phase": "stopping"})
            wire.flush()
        return message

    async def send_noting(message: Message) -> None:
        kind, said = message["type"], str(message.get("message", ""))
        if kind == "lifespan.startup.complete":
            wire.emit("lifespan", {"phase": "started"})
            requests.describe()
        else:
            lines = said.strip().splitlines()
            wire.emit("lifespan", {"phase": "stopped", "error": lines[-1] if lines else None})
            wire.flush()
        await send(message)

    return receive_noting, send_noting


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        if package in sys.modules:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                continue  # run from a source tree
    return found
