"""The fault proxy: stands before one dependency and breaks what passes, whenever it is told to."""

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from ._fault import Cut, Fault
from ._lane import Lane

_BACKLOG = 1024
_HARD = struct.pack("ii", 1, 0)

_BREATH = 0.05
"""Seconds without accepting when this process has no descriptor left; the kernel queues them."""


class FaultProxy:
    """A TCP proxy on loopback before one dependency, in this process.

    Without a fault it passes bytes on as they come: the ends of either direction too, and a side
    that does not read holds up the other. At most 256 kB are held in a direction.

    Attributes:
        name: Of the dependency.
        url: The dependency's URL, with this proxy's address in it.
        port: Where it listens, on 127.0.0.1, all its life.
        attempts: Connections that reached it; while it does not listen none do.
        accepted: Those of them that reached the dependency.
        bytes_up: What was passed on to the dependency.
        bytes_down: What was passed on to the app.
    """

    def __init__(self, name: str, host: str, port: int) -> None:
        self.name = name
        self.url = ""
        self.attempts = self.accepted = self.bytes_up = self.bytes_down = 0
        self._there = _addresses(host, port)
        self._fault = Fault()
        self._connections: set[_Connection] = set()
        self._listener: socket.socket | None = None
        # Bound and never listening: the port stays ours while a fault has the listener closed.
        self._reserve = _bound(0)
        self.port: int = self._reserve.getsockname()[1]

    @classmethod
    @asynccontextmanager
    async def before(cls, name: str, host: str, port: int) -> AsyncIterator["FaultProxy"]:
        """Listen while the context is open; at its end every connection is closed."""
        proxy = cls(name, host, port)
        try:
            proxy._listen()
            yield proxy
        finally:
            await proxy._close()

    @property
    def open(self) -> int:
        """How many connections are open, those included whose end is still under way."""
        return len(self._connections)

    @property
    def fault(self) -> Fault:
        """What is set; plain `Fault` for nothing."""
        return self._fault

    def set(self, fault: Fault) -> None:
        """Begin a fault, in place of the one before; open connections feel it at once."""
        self._fault = fault
        if fault.is_listening:
            self._listen()
        else:
            self._stop_listening()
        for connection in tuple(self._connections):
            if fault.at_begin:
                connection.cut(fault.at_begin)
            else:
                connection.stir()

    def clear(self) -> None:
        """End the fault: what was held flows on."""
        self.set(Fault())

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.listen(_BACKLOG)
            self._watch(self._listener)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def _watch(self, listener: socket.socket) -> None:
        if listener is self._listener:
            loop = asyncio.get_running_loop()
            loop.add_reader(listener.fileno(), self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            near, _ = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # else it would be asked on and on
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener.fileno())
                loop.call_later(_BREATH, self._watch, listener)
            return
        near.setblocking(False)
        self.attempts += 1
        if self._fault.at_accept:
            _close(near, self._fault.at_accept)
            return
        connection = _Connection(near, self)
        self._connections.add(connection)
        connection.task.add_done_callback(lambda _: self._connections.discard(connection))

    async def _close(self) -> None:
        self._stop_listening()
        self._reserve.close()
        tasks = [connection.task for connection in self._connections]
        for connection in tuple(self._connections):
            connection.cut("close")
        await asyncio.gather(*tasks, return_exceptions=True)

    async def reach(self) -> socket.socket:
        """Return a connection to the dependency; raises OSError when it does not take one."""
        loop = asyncio.get_running_loop()
        refused: OSError = ConnectionRefusedError()
        for family, address in self._there:
            far = socket.socket(family)
            try:
                far.setblocking(False)
                far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await loop.sock_connect(far, address)
            except OSError as error:
                far.close()
                refused = error
            except BaseException:
                far.close()
                raise
            else:
                self.accepted += 1
                return far
        raise refused

    def count_up(self, size: int) -> None:
        """Count bytes that were passed on to the dependency."""
        self.bytes_up += size

    def count_down(self, size: int) -> None:
        """Count bytes that were passed on to the app."""
        self.bytes_down += size


class _Connection:
    """One connection of the app, and the one to the dependency that belongs to it."""

    def __init__(self, near: socket.socket, proxy: FaultProxy) -> None:
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._near = near
        self._far: socket.socket | None = None
        self._proxy = proxy
        self._cut: Cut = ""
        self._lanes: tuple[Lane, ...] = ()
        self.task = asyncio.get_running_loop().create_task(self._run())
        # Not in the task: one that is cancelled before its first step would close nothing.
        self.task.add_done_callback(self._end)

    def cut(self, how: Cut) -> None:
        """End both sides."""
        self._cut = how
        self.task.cancel()

    def stir(self) -> None:
        """The fault has changed."""
        for lane in self._lanes:
            lane.stir()

    async def _run(self) -> None:
        self._far = await self._proxy.reach()
        await self._carry(self._far)

    def _end(self, task: "asyncio.Task[None]") -> None:
        """Close both sides: tidily where both streams have ended, else with a reset."""
        error = None if task.cancelled() else task.exception()
        how = self._cut or ("reset" if task.cancelled() or error is not None else "close")
        for side in (self._near, self._far):
            if side is not None:
                _close(side, how)
        if error is not None and not isinstance(error, OSError):
            raise error  # a mistake of ours: the loop says so

    async def _carry(self, far: socket.socket) -> None:
        """Pass on both directions until both have ended."""
        up = self._lane(self._near, far, self._proxy.count_up)
        down = self._lane(far, self._near, self._proxy.count_down)
        self._lanes = (up, down)
        works = [work() for lane in self._lanes for work in (lane.read, lane.pass_on)]
        tasks = [asyncio.create_task(work) for work in works]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _lane(
        self, source: socket.socket, sink: socket.socket, count: Callable[[int], None]
    ) -> Lane:
        return Lane(source, sink, fault=lambda: self._proxy.fault, count=count)


def _addresses(host: str, port: int) -> list[tuple[int, tuple[object, ...]]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


def _bound(port: int) -> socket.socket:
    """Return a socket bound to the port beside others of ours; one of them may listen."""
    bound = socket.socket()
    bound.setblocking(False)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind(("127.0.0.1", port))
    except OSError:
        bound.close()
        raise
    return bound


def _close(side: socket.socket, how: Cut) -> None:
    """Close a socket as a dead process does, or with a reset."""
    if how == "reset":
        with suppress(OSError):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _HARD)
    side.close()
