"""The inbox of a request: tells when its client has left, without stealing its messages."""

import asyncio
from collections.abc import Callable

from stormproof._core.asgi import Message, Receive, Scope, header

WATCH_AFTER = 0.05
"""Seconds after which a handler is worth a task that waits for its client to leave."""


class Inbox:
    """Stands between the server's `receive` and the app's.

    ASGI has no way to ask whether the client is there: it has to be received, and what comes
    may be a part of the body. So what is received here is kept for the app. Nothing of a body
    is fetched ahead but the one message that the look before the start may take.

    Args:
        scope: The request's.
        receive: The server's.
        on_gone: Called once when this has noticed that the client has left; not when the app
            was told, which then knows what to do.
    """

    __slots__ = (
        "_asking",
        "_fetching",
        "_is_complete",
        "_is_due",
        "_is_receiving",
        "_kept",
        "_news",
        "_on_gone",
        "_receive",
        "_scope",
        "_timer",
        "is_gone",
    )

    def __init__(self, scope: Scope, receive: Receive, on_gone: Callable[[], None]) -> None:
        # Little, because most requests are over before anything of this is needed.
        self._scope = scope
        self._receive = receive
        self._on_gone = on_gone
        self.is_gone = self._is_complete = self._is_due = self._is_receiving = False
        self._kept: list[Message] = []
        self._asking = 0
        self._news: asyncio.Event | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def receive(self) -> Message:
        """Give the app its next message; waits for it as the server's `receive` does."""
        while not self._kept:
            if self.is_gone:
                return {"type": "http.disconnect"}
            if self._fetching is None or self._fetching.done():
                return await self._receive_itself()
            self._asking += 1
            self._news = self._news or asyncio.Event()
            try:
                self._news.clear()
                await self._news.wait()  # ends with the next message, or the request
            finally:
                self._asking -= 1
        return self._kept.pop(0)

    async def _receive_itself(self) -> Message:
        # Two at once would steal from each other: nothing is fetched in the meantime.
        self._is_receiving = True
        try:
            message = await self._receive()
        finally:
            self._is_receiving = False
        return self._note(message)

    async def look(self) -> bool:
        """Return whether the client has left already; takes one turn of the loop, no more."""
        if (
            header(self._scope, b"expect") is None
        ):  # receiving would tell the client to send its body
            self._fetching = asyncio.create_task(self._fetch())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return self.is_gone

    def watch(self) -> None:
        """From `WATCH_AFTER` on, and when the body is there, notice that the client leaves."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(WATCH_AFTER, self._begin)

    def stop(self) -> None:
        """Do not begin to watch any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._is_due = False

    async def close(self) -> None:
        """Stop, and see the task that watches to its end."""
        self.stop()
        fetching, self._fetching = self._fetching, None
        if fetching is not None:
            fetching.cancel()
            await asyncio.wait([fetching])
            if not fetching.cancelled():
                fetching.exception()  # the server's, which the app will meet when it sends

    def _begin(self) -> None:
        self._is_due = True
        if self._is_receiving or not (self._is_complete or self._has_no_body()):
            return
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._fetch())

    def _has_no_body(self) -> bool:
        length = header(self._scope, b"content-length")
        return length in (None, "0") and header(self._scope, b"transfer-encoding") is None

    def _note(self, message: Message) -> Message:
        """Learn from a message that the body is complete, or that the client has left."""
        if message["type"] == "http.disconnect":
            self.is_gone = True
        elif not message.get("more_body"):
            self._is_complete = True
            if self._is_due:
                self._begin()
        return message

    async def _fetch(self) -> None:
        """Receive one message, and all that follow when it is time to watch."""
        while True:
            message = self._note(await self._receive())
            if not self.is_gone:
                self._kept.append(message)
            elif not self._asking:
                self._on_gone()
            if self._news is not None:
                self._news.set()
            if self.is_gone or not (self._is_complete and self._is_due):
                return
