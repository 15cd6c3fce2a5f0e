"""A real uvicorn on a real socket inside the test's own loop, and a lifecycle in its scopes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any

import uvicorn

from stormproof._core.asgi import LIFECYCLE_KEY, ASGIApp, Receive, Scope, Send
from stormproof._core.events import Event, StreamEnded
from stormproof._core.lifecycle import Lifecycle
from tests.harness import until


class QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers."""

    def capture_signals(self) -> Any:
        return nullcontext()


@asynccontextmanager
async def serving(app: ASGIApp, *, http: str = "httptools") -> AsyncIterator[int]:
    config = uvicorn.Config(
        app, port=0, lifespan="off", log_config=None, access_log=False, http=http
    )
    server = QuietServer(config)
    running = asyncio.create_task(server.serve())
    await until(lambda: server.started or running.done(), what="uvicorn to start")
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await running


class WithLifecycle:
    """Puts `lifecycle` where responses look for it."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self.app = app
        self.lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[LIFECYCLE_KEY] = self.lifecycle
        await self.app(scope, receive, send)


@contextmanager
def reasons(lifecycle: Lifecycle) -> Iterator[list[str]]:
    """Collect why streams ended."""
    seen: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, StreamEnded):
            seen.append(event.reason)

    stop = lifecycle.events.subscribe(note)
    yield seen
    stop()
