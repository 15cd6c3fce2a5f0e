"""A real uvicorn on a real socket inside the test's own loop, for what needs no own process."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from fastapi import FastAPI

from tests.harness import until


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[int]:
    """Serve `app` on a free port of 127.0.0.1 until the block ends; gives the port."""
    async with serving(app) as (_, port):
        yield port


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    """Like `served`; gives the server itself, too."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, lifespan="on", log_config=None, timeout_graceful_shutdown=5)
        server = _Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        try:
            await until(lambda: server.started or serving.done(), what="the server to start")
            yield server, int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            await serving


class _Server(uvicorn.Server):
    """uvicorn that leaves the signals to pytest."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Work:
    """Blocking or asynchronous work that begins, waits for a gate, and ends; all are counted."""

    def __init__(self) -> None:
        self.begun = 0
        self.inside = 0
        self._opened = threading.Event()
        self._lock = threading.Lock()

    def block(self) -> dict[str, bool]:
        """Hold this thread until the gate opens."""
        self._enter()
        try:
            assert self._opened.wait(60.0), "the test never opened the gate"
        finally:
            self._leave()
        return {"done": True}

    async def run(self) -> dict[str, bool]:
        """Wait for the gate without a thread."""
        self._enter()
        try:
            await until(self._opened.is_set, 60.0)
        finally:
            self._leave()
        return {"done": True}

    @contextmanager
    def opened_at_the_end(self) -> Iterator[None]:
        """Open the gate when the block ends, also when its check fails."""
        try:
            yield
        finally:
            self.open_gate()

    def open_gate(self) -> None:
        """Let everything that waits, and everything that comes later, through."""
        self._opened.set()

    def _enter(self) -> None:
        with self._lock:
            self.begun += 1
            self.inside += 1

    def _leave(self) -> None:
        with self._lock:
            self.inside -= 1
