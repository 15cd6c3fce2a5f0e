"""A port for the server, and who listens where."""

import random
import socket
from collections.abc import Iterable
from contextlib import suppress

import psutil  # type: ignore[import-untyped]

from stormproof.errors import CouldNotProve

_LOW, _HIGH = 20_000, 32_000
"""Below the ports that systems give to outgoing connections: none of the many that a load opens
can take the port before the server does, and none can be connected to itself."""

_ATTEMPTS = 100


def free_port() -> int:
    """Return a port on 127.0.0.1 that nobody uses right now; a few other ones may be taken."""
    for _ in range(_ATTEMPTS):
        port = random.randrange(_LOW, _HIGH)
        if is_free(port):
            return port
    raise CouldNotProve(f"none of {_ATTEMPTS} ports on 127.0.0.1 is free")


def is_free(port: int) -> bool:
    """Return whether a server could listen there; connections that are closing do not matter."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def listening_ports(pids: Iterable[int]) -> frozenset[int]:
    """Return the TCP ports on which these processes and their descendants listen."""
    found = set()
    for pid in pids:
        with suppress(psutil.Error):
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                found |= _listens(process)
    return frozenset(found)


def _listens(process: psutil.Process) -> set[int]:
    with suppress(psutil.Error):
        return {
            connection.laddr.port
            for connection in process.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN
        }
    return set()
