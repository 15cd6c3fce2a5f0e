"""The line under a connection: its socket, as far as the server lets it be reached.

uvicorn (0.54) does, behind FastAPI and middleware that leave `receive` alone: it is a method of
what holds the transport. Elsewhere nothing is done, and the system's defaults hold.
"""

import socket
import struct
from contextlib import suppress
from typing import Any

from stormproof._core.asgi import Receive

_UNSENT_BYTES = 16_384
"""What may lie unsent in the kernel, and as much again in the server's own buffer.

By default a reader who takes nothing costs 4 MB before any `send` waits.
"""


def hold_short(receive: Receive, *, silence: float) -> None:
    """Let little lie in buffers, and give a peer up that acknowledges nothing for `silence` s.

    A machine that vanished says no goodbye: without this the kernel repeats what it cannot
    deliver for a quarter of an hour (tcp(7), TCP_USER_TIMEOUT).
    """
    transport = _transport(receive)
    if transport is None:
        return
    transport.set_write_buffer_limits(high=_UNSENT_BYTES)
    line = transport.get_extra_info("socket")
    if line is None or line.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError):  # it is closed already
        for name, value in (
            ("TCP_NOTSENT_LOWAT", _UNSENT_BYTES),
            ("TCP_USER_TIMEOUT", int(silence * 1000)),
        ):
            option = getattr(socket, name, None)  # Linux has both
            if option is not None:
                line.setsockopt(socket.IPPROTO_TCP, option, value)


def drop(receive: Receive) -> None:
    """Reset the connection, and free what its buffers hold."""
    transport = _transport(receive)
    if transport is None:
        return
    line = transport.get_extra_info("socket")
    if line is not None:
        # Else the kernel goes on to offer the reader what it has not taken.
        with suppress(OSError):
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _transport(receive: Receive) -> Any:
    transport: Any = getattr(getattr(receive, "__self__", None), "transport", None)
    if not hasattr(transport, "set_write_buffer_limits") or transport.is_closing():
        return None
    return transport
