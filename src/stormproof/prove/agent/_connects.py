"""Connects: the TCP connections that the app opens, with the request that wanted each."""

import functools
import socket
from typing import Any

from ._requests import Requests

_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Connects:
    """Reports each attempt; what C code of a driver opens by itself is not seen."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def of_socket(self, opened: Any, address: Any) -> None:
        """A socket of Python is being connected."""
        is_tcp = opened.family in _FAMILIES and opened.type & socket.SOCK_STREAM
        if is_tcp and isinstance(address, tuple):
            self.tell(address[0], address[1])

    def tell(self, host: Any, port: Any) -> None:
        """Report one attempt."""
        route, number = self._requests.where()
        facts = {"host": str(host), "port": port, "route": route, "id": number}
        self._requests.wire.emit("connect", facts)


def patch_socket(connects: Connects) -> None:
    """Wrap `socket.connect`, which asyncio, aiohttp and all synchronous clients come to."""
    # An audit hook would see the same, and cost every call of `id()` and `sys._getframe()`.
    for name in ("connect", "connect_ex"):
        _patch_connect(name, connects)


def _patch_connect(name: str, connects: Connects) -> None:
    original = getattr(socket.socket, name)

    @functools.wraps(original)
    def connect(self: Any, address: Any, /) -> Any:
        connects.of_socket(self, address)
        return original(self, address)

    setattr(socket.socket, name, connect)


def patch_uvloop(loop_class: Any, connects: Connects) -> None:
    """Wrap `create_connection` of uvloop, which connects below Python."""
    original = loop_class.create_connection

    def create_connection(
        self: Any, factory: Any, host: Any = None, port: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        if host is not None:
            connects.tell(host, port)
        return original(self, factory, host, port, *args, **kwargs)

    loop_class.create_connection = create_connection
