"""A mail server that lets nobody in until its gate is opened: mails stay under way as long."""

import asyncio
from contextlib import suppress
from typing import Self

from stormproof.demo.mail import Mail, MailSink


class GatedMailSink:
    """Takes SMTP connections at once and passes them on to a `MailSink` when the gate opens."""

    def __init__(self) -> None:
        self._sink = MailSink()
        self._gate = asyncio.Event()
        self._relays: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"smtp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def messages(self) -> list[Mail]:
        return self._sink.messages

    @property
    def waiting(self) -> int:
        """How many connections have arrived and are not over."""
        return len(self._relays)

    def open_gate(self) -> None:
        self._gate.set()

    async def __aenter__(self) -> Self:
        await self._sink.start()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        for relay in list(self._relays):
            relay.cancel()
        if self._relays:
            await asyncio.wait(self._relays)
        await self._sink.close()
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.create_task(self._relay(reader, writer))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = int(self._sink.url.rpartition(":")[2])
        try:
            await self._gate.wait()
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_copy(reader, inner_writer))
                    group.create_task(_copy(inner_reader, writer))
            finally:
                inner_writer.close()
                with suppress(ConnectionError):
                    await inner_writer.wait_closed()
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    if writer.can_write_eof():
        with suppress(OSError):  # the other side has left without a word
            writer.write_eof()
