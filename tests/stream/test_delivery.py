"""What is left behind, whenever the task is cancelled; the ASGI server is played by hand."""

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stormproof._core.asgi import Message, Scope
from stormproof._core.lifecycle import Lifecycle
from stormproof.errors import StreamIdle
from stormproof.stream import RowsResponse, SSEResponse

from .asgi import Server, scope
from .serving import reasons


class Source:
    """Three items with awaits between, then silence; its clean-up awaits, too."""

    def __init__(self, item: Any = "x", *, is_endless: bool = True) -> None:
        self.item = item
        self.is_endless = is_endless
        self.began = 0
        self.cleaned = 0

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._items()

    async def _items(self) -> AsyncIterator[Any]:
        self.began += 1
        try:
            for _ in range(3):
                await asyncio.sleep(0)
                yield self.item
            if self.is_endless:
                await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.cleaned += 1


def response_of(kind: str, source: Source, **settings: Any) -> SSEResponse | RowsResponse:
    if kind == "rows":
        source.item = [{"n": 1}]
        return RowsResponse(source, **settings)
    return SSEResponse(source, heartbeat=0.005, **settings)


@pytest.mark.parametrize("kind", ["sse", "rows"])
async def test_cancelled_at_any_tick_closes_the_source_and_leaves_no_final_chunk(kind: str) -> None:
    for ticks in range(40):
        lifecycle, server, source = Lifecycle(), Server(), Source()
        with reasons(lifecycle) as seen:
            response = response_of(kind, source)
            running = asyncio.create_task(response(scope(lifecycle), server.receive, server.send))
            for _ in range(ticks):
                await asyncio.sleep(0)
            running.cancel()
            await asyncio.wait([running])
        assert running.cancelled()
        assert source.cleaned == source.began
        assert seen == (["deadline"] if ticks else [])
        assert not server.is_complete
        assert not lifecycle.streams
        assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("how", ["left", "leave"])
async def test_end_at_any_tick_closes_the_source(how: str) -> None:
    for ticks in range(40):
        lifecycle, server, source = Lifecycle(), Server(), Source()
        with reasons(lifecycle) as seen:
            response = SSEResponse(source)
            running = asyncio.create_task(response(scope(lifecycle), server.receive, server.send))
            for _ in range(ticks):
                await asyncio.sleep(0)
            if how == "left":
                server.left.set()
            else:
                await asyncio.sleep(0)
                for place in lifecycle.streams:
                    place.leave.set()
            await running
        assert source.cleaned == source.began
        assert seen == ["left" if how == "left" else "drain"]
        assert server.is_complete is (how == "leave")
        if how == "leave":
            assert server.body.count(b"event: drain") == 1
        assert not lifecycle.streams
        assert len(asyncio.all_tasks()) == 1


async def test_cancelled_while_it_takes_its_leave_is_leak_free() -> None:
    for ticks in range(25):
        lifecycle, server, source = Lifecycle(), Server(), Source()
        running = asyncio.create_task(
            SSEResponse(source)(scope(lifecycle), server.receive, server.send)
        )
        for _ in range(12):
            await asyncio.sleep(0)
        for place in lifecycle.streams:
            place.leave.set()
        for _ in range(ticks):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        assert not lifecycle.streams
        assert len(asyncio.all_tasks()) == 1


async def test_cancelled_in_a_blocked_send_ends_at_once() -> None:
    for blocks_at in range(4):
        lifecycle, server, source = Lifecycle(), Server(blocks_at=blocks_at), Source()
        running = asyncio.create_task(
            SSEResponse(source)(scope(lifecycle), server.receive, server.send)
        )
        await server.blocked.wait()
        running.cancel()
        await asyncio.wait([running])
        assert source.cleaned == source.began
        assert len(asyncio.all_tasks()) == 1


async def test_event_on_its_way_is_sent_before_the_farewell() -> None:
    """The event was taken from the source: dropped now, it would be lost."""

    class Slow(Server):
        def __init__(self) -> None:
            super().__init__()
            self.go_on = asyncio.Event()

        async def send(self, message: Message) -> None:
            if len(self.sent) == 2:
                self.blocked.set()
                await self.go_on.wait()
            await super().send(message)

    lifecycle, server, source = Lifecycle(), Slow(), Source()
    running = asyncio.create_task(
        SSEResponse(source)(scope(lifecycle), server.receive, server.send)
    )
    await server.blocked.wait()
    for place in lifecycle.streams:
        place.leave.set()
    for _ in range(10):
        await asyncio.sleep(0)
    server.go_on.set()
    await running
    assert server.body.startswith(b"data: x\n\ndata: x\n\nevent: drain\n")
    assert server.is_complete
    assert source.cleaned == 1


async def test_server_that_raises_for_a_client_that_left_is_no_failure() -> None:
    """ASGI 2.4: `send` raises OSError. A TimeoutError of the socket is one, and no stall."""
    for error in (OSError(), ConnectionResetError(), TimeoutError("ETIMEDOUT")):
        lifecycle, server, source = Lifecycle(), Server(error=error), Source()
        with reasons(lifecycle) as seen:
            await SSEResponse(source)(scope(lifecycle), server.receive, server.send)
        assert seen == ["left"]
        assert source.cleaned == 1


async def test_oserror_of_the_source_is_a_failure_and_not_a_client_that_left() -> None:
    async def breaks() -> AsyncIterator[str]:
        yield "x"
        raise ConnectionResetError("the database")

    lifecycle, server = Lifecycle(), Server()
    with reasons(lifecycle) as seen, pytest.raises(ConnectionResetError):
        await SSEResponse(breaks())(scope(lifecycle), server.receive, server.send)
    assert seen == ["failed"]
    assert not server.is_complete


async def test_source_runs_in_one_task_so_its_context_and_timeouts_hold() -> None:
    variable = contextvars.ContextVar("variable", default=0)

    async def counts() -> AsyncIterator[str]:
        async with asyncio.timeout(5):
            for _ in range(3):
                variable.set(variable.get() + 1)
                yield str(variable.get())
                await asyncio.sleep(0)

    server = Server()
    await SSEResponse(counts())(scope(Lifecycle()), server.receive, server.send)
    assert server.body == b"data: 1\n\ndata: 2\n\ndata: 3\n\n"
    assert server.is_complete


async def test_source_that_swallows_its_cancellation_sends_nothing_more() -> None:
    async def stubborn() -> AsyncIterator[str]:
        yield "x"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield "too late"

    lifecycle, server = Lifecycle(), Server()
    running = asyncio.create_task(
        SSEResponse(stubborn())(scope(lifecycle), server.receive, server.send)
    )
    while server.body != b"data: x\n\n":
        await asyncio.sleep(0)
    for place in lifecycle.streams:
        place.leave.set()
    await running
    assert b"too late" not in server.body
    assert server.is_complete


async def test_clean_up_that_fails_is_logged_and_does_not_change_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails_late() -> AsyncIterator[str]:
        try:
            yield "x"
            await asyncio.Event().wait()
        finally:
            raise ValueError("clean-up")

    caplog.set_level(logging.ERROR)
    lifecycle, server = Lifecycle(), Server()
    with reasons(lifecycle) as seen:
        running = asyncio.create_task(
            SSEResponse(fails_late())(scope(lifecycle), server.receive, server.send)
        )
        while not server.body:
            await asyncio.sleep(0)
        server.left.set()
        await running
    assert seen == ["left"]
    assert "GET /events: the source failed when it was closed" in caplog.text


async def test_bytes_that_are_no_whole_event_cut_the_stream() -> None:
    async def wrong() -> AsyncIterator[bytes]:
        yield b"data: x"

    server = Server()
    with pytest.raises(ValueError, match="no whole event"):
        await SSEResponse(wrong())(scope(Lifecycle()), server.receive, server.send)
    assert not server.is_complete


@pytest.mark.parametrize("kind", ["sse", "rows"])
async def test_source_that_keeps_silent_is_cut_and_closed(kind: str) -> None:
    lifecycle, server, source = Lifecycle(), Server(), Source()
    response = response_of(kind, source, idle_timeout=0.05)
    with reasons(lifecycle) as seen, pytest.raises(StreamIdle, match=r"nothing for 0\.05 s"):
        await response(scope(lifecycle), server.receive, server.send)
    assert seen == ["idle"]
    assert source.cleaned == 1
    assert not server.is_complete
    assert b"x" in server.body or b"1" in server.body
    assert len(asyncio.all_tasks()) == 1


async def test_export_that_is_silent_from_the_start_has_sent_nothing() -> None:
    """So the error can still be the answer: a 504."""

    async def silent() -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield {}

    server = Server()
    response = RowsResponse(silent(), idle_timeout=0.02)
    with pytest.raises(StreamIdle):
        await response(scope(Lifecycle()), server.receive, server.send)
    assert server.sent == []


async def test_reader_that_is_slow_is_no_silence_of_the_source() -> None:
    """The idle time runs only while the source is asked."""

    class Slow(Server):
        async def send(self, message: Message) -> None:
            await asyncio.sleep(0.03)
            await super().send(message)

    server = Slow()
    response = SSEResponse(Source(is_endless=False), idle_timeout=0.02)
    await response(scope(Lifecycle()), server.receive, server.send)
    assert server.is_complete


async def test_without_a_lifecycle_all_the_rest_is_the_same() -> None:
    server, source = Server(), Source(is_endless=False)
    bare: Scope = {"type": "http", "method": "GET", "path": "/events"}
    await SSEResponse(source)(bare, server.receive, server.send)
    assert server.is_complete
    assert source.cleaned == 1


async def test_background_runs_after_the_stream() -> None:
    ran = []

    async def background() -> None:
        ran.append(server.is_complete)

    server = Server()
    response = SSEResponse(Source(is_endless=False))
    response.background = background  # type: ignore[assignment]
    await response(scope(Lifecycle()), server.receive, server.send)
    assert ran == [True]
