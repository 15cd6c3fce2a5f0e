"""Running one of the two database services, and asking it."""

import asyncio
import importlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest.mock import patch

import httpx2

from tests.harness import Answer, ServerProcess, free_port, request, until, uvicorn_app

POST = "tests.faults.database_post"
OURS = "tests.faults.database_ours"
DEMO = "stormproof.demo.service"

# The seed reads the environment when it is imported, as the post does.
_READ_ANEW = ("stormproof.demo.seed", POST, OURS, DEMO)

Ask = Callable[..., Coroutine[Any, Any, Answer]]


@dataclass(frozen=True, slots=True)
class Service:
    """A running service.

    Attributes:
        ask: Sends a request: method, path, and `headers`, `body`, `timeout`.
        patience: Seconds until what did not settle counts as never settling.
    """

    ask: Ask
    patience: float

    async def get(self, path: str, *, timeout: float = 5.0) -> Answer:
        """Send a GET."""
        return await self.ask("GET", path, timeout=timeout)

    async def post(self, path: str, body: object = None, *, timeout: float = 5.0) -> Answer:
        """Send a POST with a JSON body."""
        headers = {"content-type": "application/json"}
        content = json.dumps(body).encode()
        return await self.ask("POST", path, headers=headers, body=content, timeout=timeout)

    async def create(self, name: str = "bolt", quantity: int = 0) -> Answer:
        """Ask for an item to be stored."""
        return await self.post("/items", {"name": name, "quantity": quantity})

    async def item_names(self) -> list[str]:
        """Return the names of the stored items."""
        return [item["name"] for item in json.loads((await self.get("/items")).body)]

    async def pool(self) -> dict[str, int]:
        """Return what the service says about its pool, tasks and threads."""
        return dict(json.loads((await self.get("/pool")).body))

    async def settled(self, what: str, value: int) -> int:
        """Return a number of `pool` once it is `value`, or what it is after `patience`."""
        latest: list[int] = []

        async def is_settled() -> bool:
            latest.append((await self.pool())[what])
            return latest[-1] == value

        with suppress(TimeoutError):
            await until(is_settled, timeout=self.patience)
        return latest[-1]


@dataclass(frozen=True, slots=True)
class ServedService(Service):
    """A service in a server process of its own.

    Attributes:
        process: The process.
        port: Where it listens.
    """

    process: ServerProcess
    port: int


@asynccontextmanager
async def served(module: str, url: str, *, pool_size: int = 5) -> AsyncIterator[ServedService]:
    """Run the app of `module` under uvicorn, with a pool of exactly `pool_size` connections."""
    port = free_port()
    command = uvicorn_app(f"{module}:app", port)
    async with ServerProcess(command, env=_environment(url, pool_size)) as process:
        await process.wait_ready(port, "/startupz")

        async def ask(method: str, path: str, **arguments: Any) -> Answer:
            return await request(port, method, path, **arguments)

        yield ServedService(ask, _patience(module), process, port)


@asynccontextmanager
async def loaded(module: str, url: str, *, pool_size: int = 5) -> AsyncIterator[Service]:
    """Run the app of `module` in this process, without a server."""
    with patch.dict(os.environ, _environment(url, pool_size)):
        service = _imported_anew(module)
    # raise_app_exceptions=False: what a client on a socket sees.
    transport = httpx2.ASGITransport(service.app, raise_app_exceptions=False)
    try:
        async with (
            service.app.router.lifespan_context(service.app),
            httpx2.AsyncClient(transport=transport, base_url="http://service") as client,
        ):

            async def ask(
                method: str,
                path: str,
                *,
                headers: dict[str, str] | None = None,
                body: bytes | None = None,
                timeout: float,
            ) -> Answer:
                started_at = time.monotonic()
                async with asyncio.timeout(timeout):
                    got = await client.request(method, path, headers=headers, content=body)
                elapsed = time.monotonic() - started_at
                return Answer(got.status_code, dict(got.headers), got.content, "complete", elapsed)

            yield Service(ask, _patience(module))
    finally:
        if module == POST:
            await service.engine.dispose()  # the post forgets it


def _patience(module: str) -> float:
    # The post's leavings stay for ever, so a second shows them. Ours must go, however busy the
    # machine: a disk that stalled for some seconds once was taken for a leak.
    return 1.0 if module == POST else 30.0


def _imported_anew(module: str) -> ModuleType:
    for name in _READ_ANEW:
        sys.modules.pop(name, None)
    try:
        return importlib.import_module(module)
    finally:
        for name in _READ_ANEW:
            sys.modules.pop(name, None)


def _environment(url: str, pool_size: int) -> dict[str, str]:
    return {"DATABASE_URL": url, "SEED_POOL_SIZE": str(pool_size), "SEED_MAX_OVERFLOW": "0"}
