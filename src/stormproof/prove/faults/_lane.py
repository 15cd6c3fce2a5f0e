"""One direction of a proxied connection: reads ahead a little, and lets through what may pass."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from ._fault import Chunk, Fault

_READ_BYTES = 65_536
_AHEAD_BYTES = 262_144
"""What is held at most; past it nothing is read, so the sender is held up by TCP itself."""


class Lane:
    """Bytes from one socket to another, in order, as the fault of the moment allows.

    `read` and `pass_on` run side by side, until the end of the stream has been passed on; they
    raise OSError when either side is broken or a fault breaks it.
    """

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        *,
        fault: Callable[[], Fault],
        count: Callable[[int], None],
    ) -> None:
        self._source = source
        self._sink = sink
        self._fault = fault
        self._count = count
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._has_passed_at = 0.0
        self._stirred = asyncio.Event()
        self._has_room = asyncio.Event()

    def stir(self) -> None:
        """The fault has changed: look again at what is held."""
        self._stirred.set()

    async def read(self) -> None:
        """Read until the end of the stream; what may pass at once is passed on from here."""
        loop = asyncio.get_running_loop()
        while True:
            data = await loop.sock_recv(self._source, _READ_BYTES)
            now = loop.time()
            if data and self._is_clear(now, data):
                # Without a second task between, a query costs 40 % less.
                await self._send(data)
                continue
            self._held.append((now, data))
            self._held_bytes += len(data)
            self._stirred.set()
            if not data:
                return
            while self._held_bytes >= _AHEAD_BYTES:
                self._has_room.clear()
                await self._has_room.wait()

    async def pass_on(self) -> None:
        """Pass on what is held, each when it may; returns when the end has been passed on."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._held:
                self._stirred.clear()
                await self._stirred.wait()
            arrived_at, data = self._held[0]
            chunk = self._chunk(arrived_at, data)
            due_at = self._fault().due_at(chunk)
            if due_at > loop.time():
                await self._wait_until(due_at)
                continue
            self._has_passed_at = max(due_at, chunk.waited_since)
            if not data:
                self._sink.shutdown(socket.SHUT_WR)
                return
            await self._send(data[: chunk.size_bytes])
            self._drop(chunk.size_bytes)

    def _is_clear(self, now: float, data: bytes) -> bool:
        """Return whether these bytes may pass at once, and nothing is before them."""
        if self._held:
            return False
        chunk = self._chunk(now, data)
        return chunk.size_bytes == len(data) and self._fault().due_at(chunk) <= now

    def _chunk(self, arrived_at: float, data: bytes) -> Chunk:
        size = min(len(data), self._fault().most_bytes)
        return Chunk(arrived_at, size, max(arrived_at, self._has_passed_at))

    def _drop(self, size: int) -> None:
        """Let go of what has passed; only now, so that nothing overtakes it meanwhile."""
        arrived_at, data = self._held[0]
        if size < len(data):
            self._held[0] = (arrived_at, data[size:])
        else:
            self._held.popleft()
        self._held_bytes -= size
        self._has_room.set()

    async def _wait_until(self, due_at: float) -> None:
        """Wait until then, or until there is reason to look again."""
        self._stirred.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(None if due_at == float("inf") else due_at):
                await self._stirred.wait()

    async def _send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sink, data)
        self._count(len(data))
