"""Attempts: what one call does on the wire, within its slot and its time."""

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Protocol

from ._client import Client
from ._statistics import Counts

TIMEOUT_HEADER = "X-Request-Timeout"

_NO_SLOT = nullcontext()
_CONNECTED = frozenset(
    ("connection.connect_tcp.complete", "connection.connect_unix_socket.complete")
)


class Limit(Protocol):
    """What bounds the calls at once; `stormproof.Limiter` is one."""

    def slot(self) -> AbstractAsyncContextManager[Any]:
        """Hold one slot inside `async with`; entering waits a bounded time, or raises."""
        ...


class Attempts:
    """Sends what an upstream was asked for, and counts it."""

    def __init__(self, counts: Counts, *, limit: Limit | None) -> None:
        self._counts = counts
        self._limit = limit

    async def answer(self, client: Client, request: Any, *, ends_at: float) -> Any:
        """Return the answer to `request`, which its caller gives up at the loop time `ends_at`.

        Waits for a slot and for the upstream. Cancelled: the attempt is given up;
        its slot and its place in the pool are free again.
        """
        return await self._attempt(client, request, ends_at)

    async def _attempt(self, client: Client, request: Any, ends_at: float) -> Any:
        async with self._slot():
            left = ends_at - asyncio.get_running_loop().time()
            request.headers[TIMEOUT_HEADER] = f"{max(0.0, left):.3f}"
            return await client.send(self._counted(request))

    def _slot(self) -> AbstractAsyncContextManager[Any]:
        return _NO_SLOT if self._limit is None else self._limit.slot()

    def _counted(self, request: Any) -> Any:
        """Count the connections that `request` opens, unless somebody else is told of them."""
        extensions = getattr(request, "extensions", None)
        if extensions is not None:
            extensions.setdefault("trace", self._trace)
        return request

    async def _trace(self, name: str, details: dict[str, Any]) -> None:
        if name in _CONNECTED:
            self._counts.connections_opened += 1
