"""A client's end of a connection in virtual time: bytes go straight into uvicorn's protocol."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from stormproof.serve._limits import ReadLimits, limited_protocol


class Wire(asyncio.Transport):
    """The socket: keeps what the server writes, and when it closed."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 5), "sockname": ("192.0.2.2", 80)})
        self.written = b""
        self.closed_at: float | None = None
        self.is_reading_paused = False
        self.protocol: Any = None

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        if self.closed_at is None:
            loop = asyncio.get_running_loop()
            self.closed_at = loop.time()
            loop.call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self.closed_at is not None

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False


class Client:
    """Connects at once; `statuses` are those of the answers so far."""

    def __init__(self, app: Any, base: type[asyncio.Protocol], limits: ReadLimits) -> None:
        config = uvicorn.Config(
            app,
            http=limited_protocol(limits, base=base),
            ws="none",
            log_config=None,
            timeout_keep_alive=75,
        )
        config.load()
        self.wire = Wire()
        protocol: Any = config.http_protocol_class
        self.wire.protocol = protocol(
            config=config,
            server_state=ServerState(),
            app_state={},
            _loop=asyncio.get_running_loop(),
        )
        self.began_at = asyncio.get_running_loop().time()
        self.wire.protocol.connection_made(self.wire)

    def send(self, data: bytes) -> None:
        self.wire.protocol.data_received(data)

    @property
    def statuses(self) -> list[int]:
        heads = self.wire.written.split(b"HTTP/1.1 ")[1:]
        return [int(head[:3]) for head in heads]

    @property
    def closed_after(self) -> float | None:
        """Seconds from the connect until the server closed, rounded, or None."""
        at = self.wire.closed_at
        return None if at is None else round(at - self.began_at, 3)


@contextmanager
def connected(app: Any, base: type[asyncio.Protocol], limits: ReadLimits) -> Iterator[Client]:
    client = Client(app, base, limits)
    try:
        yield client
    finally:
        client.wire.close()
