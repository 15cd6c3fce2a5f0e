"""The inbox of a request: tells when its client has left, without stealing its messages."""

import asyncio
from collections import deque
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
        "_has_body",
        "_is_due",
        "_kept",
        "_news",
        "_on_gone",
        "_receive",
        "_timer",
        "expects_100",
        "is_gone",
    )

    def __init__(self, scope: Scope, receive: Receive, on_gone: Callable[[], None]) -> None:
        self._receive = receive
        self._on_gone = on_gone
        self.is_gone = False
        self.expects_100 = header(scope, b"expect") is not None
        self._has_body = _has_body(scope)
        self._kept: deque[Message] = deque()
        self._news = asyncio.Event()
        self._asking = 0
        self._fetching: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_due = False

    async def receive(self) -> Message:
        """Give the app its next message; waits for it as the server's `receive` does."""
        while not self._kept:
            if self.is_gone:
                return {"type": "http.disconnect"}
            if self._fetching is None or self._fetching.done():
                return self._note(await self._receive())
            self._asking += 1
            try:
                self._news.clear()
                await self._news.wait()  # ends with the next message, or the request
            finally:
                self._asking -= 1
        return self._kept.popleft()

    async def look(self) -> bool:
        """Return whether the client has left already; takes one turn of the loop, no more."""
        if not self.expects_100:  # receiving would tell the client to send its body
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
        if not self._has_body and (self._fetching is None or self._fetching.done()):
            self._fetching = asyncio.create_task(self._fetch())

    def _note(self, message: Message) -> Message:
        """Learn from a message that the body is complete, or that the client has left."""
        if message["type"] == "http.disconnect":
            self.is_gone = True
        elif not message.get("more_body"):
            self._has_body = False
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
            self._news.set()
            if self.is_gone or self._has_body or not self._is_due:
                return


def _has_body(scope: Scope) -> bool:
    length = header(scope, b"content-length")
    return length not in (None, "0") or header(scope, b"transfer-encoding") is not None
