"""An ASGI server played by hand."""

import asyncio

from stormproof._core.asgi import LIFECYCLE_KEY, Message, Scope
from stormproof._core.lifecycle import Lifecycle


class Server:
    """ASGI `receive` and `send` as a server has them; `blocks_at` is a send that never ends."""

    def __init__(self, *, blocks_at: int | None = None, error: Exception | None = None) -> None:
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self.blocked = asyncio.Event()
        self._blocks_at = blocks_at
        self._error = error

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await asyncio.sleep(0)
        if self._error is not None and len(self.sent) == 2:
            raise self._error
        if len(self.sent) == self._blocks_at:
            self.blocked.set()
            await asyncio.Event().wait()
        self.sent.append(message)

    @property
    def is_complete(self) -> bool:
        return self.sent[-1:] != [] and self.sent[-1].get("more_body") is False

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


def scope(lifecycle: Lifecycle | None = None) -> Scope:
    return {
        "type": "http",
        "method": "GET",
        "path": "/events",
        "headers": [],
        LIFECYCLE_KEY: lifecycle or Lifecycle(),
    }
