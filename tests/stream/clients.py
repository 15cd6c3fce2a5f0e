"""Clients of a hub played by hand: they take, they stall, they leave, and they check the order."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from stormproof._core.asgi import LIFECYCLE_KEY, Message, Scope
from stormproof._core.lifecycle import Lifecycle
from stormproof.stream import Hub
from stormproof.testing import HandClock, run_in_virtual_time
from tests.harness import Event
from tests.harness.stream import EventParser


class Client:
    """One client of a hub, and its side of ASGI; `stall` lets each later send wait."""

    def __init__(self, hub: Hub, lifecycle: Lifecycle | None = None) -> None:
        self.hub = hub
        self.lifecycle = lifecycle
        self.messages: list[Message] = []
        self.events: list[Event] = []
        self.last_id: str | None = None
        self.sends = 0
        self._parser = EventParser()
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._left = asyncio.Event()
        self.error: Exception | None = None
        self.task: asyncio.Task[None] | None = None

    def connect(
        self, topics: Sequence[str] = ("t",), *, resumes: bool = False, **options: Any
    ) -> "asyncio.Task[None]":
        """Open a stream of `topics`."""
        self._left.clear()
        self.messages.clear()
        self._parser = EventParser()
        headers = []
        if resumes and self.last_id is not None:
            headers.append((b"last-event-id", self.last_id.encode()))
        scope: Scope = {"type": "http", "method": "GET", "path": "/events", "headers": headers}
        if self.lifecycle is not None:
            scope[LIFECYCLE_KEY] = self.lifecycle
        running: Awaitable[None] = self.hub.response(topics, **options)(
            scope, self._receive, self._send
        )
        self.task = asyncio.ensure_future(running)
        return self.task

    def stall(self) -> None:
        """Take nothing from now on."""
        self._may_send.clear()

    def read_on(self) -> None:
        """Take again."""
        self._may_send.set()

    async def leave(self) -> None:
        """Close the connection, and wait until the server has noticed."""
        self._left.set()
        self._may_send.set()
        if self.task is not None:
            await self.task

    @property
    def is_complete(self) -> bool:
        """Whether the last chunk came."""
        return bool(self.messages) and self.messages[-1].get("more_body") is False

    @property
    def data(self) -> list[str | None]:
        """The data of all events that have a name of their own or none, without the hub's."""
        return [event.data for event in self.events if event.data and not is_own(event)]

    @property
    def names(self) -> list[str]:
        """The names of the hub's own events."""
        return [str(event.event) for event in self.events if is_own(event)]

    async def _receive(self) -> Message:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sends += 1
        if self.error is not None:
            raise self.error
        if not self._may_send.is_set():
            await self._may_send.wait()
        if self._left.is_set():
            return  # as uvicorn does
        self.messages.append(message)
        for event in self._parser.feed(message.get("body", b"")):
            self.events.append(event)
            if event.id is not None:
                self.last_id = event.id


def in_virtual_time(
    test: Callable[[HandClock], Coroutine[Any, Any, None]],
) -> Callable[[], None]:
    """Run an async test in a loop that turns its clock instead of waiting."""

    def run() -> None:
        clock = HandClock()
        run_in_virtual_time(test(clock), clock=clock)

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def is_own(event: Event) -> bool:
    """Whether the event is one that the hub tells of itself."""
    return event.event in ("gap", "reset", "drain", "expired", "error")


def offset_of(id: str | None) -> int:
    """Return the offset in an id."""
    return int(str(id).partition("-")[2])


async def settle(ticks: int = 30) -> None:
    """Let everything run that can."""
    for _ in range(ticks):
        await asyncio.sleep(0)


def missed(client: Client, published: Sequence[int], *, is_ordered: bool) -> list[int]:
    """Check what a client has seen of `published`, and return what it was told to have missed.

    Offsets grow; nothing comes twice; what did not come lies in a gap that was told before the
    next event, and each gap counts exactly what did not come.
    """
    told: list[int] = []
    waiting = list(published)
    gaps: list[tuple[int, int, int]] = []
    skipped: list[int] = []
    for event in client.events:
        if event.event == "gap":
            gap = json.loads(str(event.data))
            gaps.append((gap["dropped"], offset_of(gap["first"]), offset_of(gap["last"])))
        elif event.event == "reset":
            at = offset_of(event.id)
            waiting = [offset for offset in waiting if offset > at]
            gaps.clear()
            skipped.clear()
        elif event.data is not None and not is_own(event):
            at = offset_of(event.id)
            assert at in waiting, f"{at} came twice, or out of order"
            before = waiting[: waiting.index(at)]
            waiting = waiting[len(before) + 1 :]
            skipped += before
            if is_ordered:
                assert sum(gap[0] for gap in gaps) == len(skipped), (gaps, skipped)
                for dropped, first, last in gaps:
                    inside = [offset for offset in skipped if first <= offset <= last]
                    assert (inside[0], inside[-1], len(inside)) == (first, last, dropped)
                told += skipped
                gaps.clear()
                skipped = []
    if not is_ordered:
        for offset in skipped:
            assert any(first <= offset <= last for _, first, last in gaps), (offset, gaps)
        assert sum(gap[0] for gap in gaps) == len(skipped), (gaps, skipped)
        told += skipped
    assert not waiting, f"never came: {waiting}"
    return told
