import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware

from stormproof._core.lifecycle import Lifecycle, Phase
from stormproof.errors import StormproofError, UpstreamTimeout
from stormproof.stream import ServerEvent, SSEResponse
from tests.harness import Connection, Stream, encode_request, request, until

from .serving import WithLifecycle, reasons, serving


class Source:
    """Yields what is put, tells when it was closed, and raises what is put as an exception."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[Any] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.closed_at = 0.0
        self.slow_close = False

    async def __call__(self) -> AsyncIterator[Any]:
        try:
            while (item := await self.items.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            if self.slow_close:
                for _ in range(5):
                    await asyncio.sleep(0)
            self.closed_at = time.monotonic()
            self.closed.set()


def app_with(make: Callable[[], SSEResponse]) -> FastAPI:
    app = FastAPI()

    @app.api_route("/events", methods=["GET", "HEAD"])
    async def events() -> SSEResponse:
        return make()

    return app


@pytest.fixture(params=["httptools", "h11"])
def http(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_finished_source_ends_with_the_final_chunk(http: str) -> None:
    async def three() -> AsyncIterator[Any]:
        yield "one"
        yield {"n": 2}
        yield ServerEvent("a\nb", event="named", id="3", retry_ms=10)

    lifecycle = Lifecycle()
    app = WithLifecycle(app_with(lambda: SSEResponse(three(), retry_ms=1500)), lifecycle)
    with reasons(lifecycle) as seen:
        async with serving(app, http=http) as port, Stream(port, "/events") as stream:
            assert stream.status == 200
            assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert stream.headers["cache-control"] == "no-store, no-transform"
            assert stream.headers["x-accel-buffering"] == "no"
            assert "content-length" not in stream.headers
            assert await stream.finish() == "complete"
            assert [event.data for event in stream.events] == [None, "one", '{"n":2}', "a\nb"]
            assert stream.events[0].retry == 1500
            assert (stream.events[3].event, stream.events[3].id) == ("named", "3")
    assert seen == ["finished"]
    assert not lifecycle.streams


async def test_connection_is_kept_alive_after_a_finished_stream() -> None:
    async def one() -> AsyncIterator[str]:
        yield "one"

    app = app_with(lambda: SSEResponse(one()))
    async with serving(app) as port, await Connection.open(port) as connection:
        for _ in range(2):
            answer = await connection.request("GET", "/events")
            assert (answer.ended, answer.body) == ("complete", b"data: one\n\n")


async def test_head_is_answered_with_headers_only() -> None:
    source = Source()
    async with serving(app_with(lambda: SSEResponse(source()))) as port:
        answer = await request(port, "HEAD", "/events")
    assert (answer.status, answer.ended, answer.body) == (200, "complete", b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_heartbeats_fill_the_silence_and_never_cancel_the_source() -> None:
    source = Source()
    app = app_with(lambda: SSEResponse(source(), heartbeat=0.02))
    async with serving(app) as port, Stream(port, "/events") as stream:
        for _ in range(3):
            assert (await stream.next_event()).comment == "keep-alive"
        source.items.put_nowait("still here")
        while (event := await stream.next_event()).comment is not None:
            pass
        assert event.data == "still here"
        source.items.put_nowait(None)
        assert await stream.finish() == "complete"
    assert source.closed.is_set()


@pytest.mark.parametrize("is_wrapped", [False, True], ids=["bare", "BaseHTTPMiddleware"])
async def test_failed_source_is_told_and_truncated(
    http: str, is_wrapped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """BaseHTTPMiddleware completes the body of an app that raised; not this one."""
    source = Source()
    app = app_with(lambda: SSEResponse(source()))
    if is_wrapped:
        app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, go_on: go_on(request))
    lifecycle = Lifecycle()
    with reasons(lifecycle) as seen:
        server = serving(WithLifecycle(app, lifecycle), http=http)
        async with server as port, Stream(port, "/events") as stream:
            source.items.put_nowait("one")
            await stream.next_event()
            source.items.put_nowait(ValueError("secret"))
            assert await stream.finish() == "truncated"
    told = stream.events[-1]
    assert (told.event, told.data) == ("error", '{"error":"the stream failed"}')
    assert seen == ["failed"]
    assert not lifecycle.streams
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert len(tracebacks) == 1
    own = [record for record in caplog.records if record.name == "stormproof"]
    assert [record.getMessage() for record in own] == [
        "GET /events failed after 2 sends and is cut: ValueError: secret"
    ]


async def test_failure_the_app_has_a_handler_for_is_logged_with_one_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Source()
    app = app_with(lambda: SSEResponse(source()))

    @app.exception_handler(StormproofError)
    async def never(request: Any, exc: Exception) -> None:
        raise AssertionError("the response has begun")

    async with serving(app) as port, Stream(port, "/events") as stream:
        source.items.put_nowait(UpstreamTimeout("upstream 'model' was late"))
        assert await stream.finish() == "truncated"
    assert "the response was cut: UpstreamTimeout: upstream 'model' was late" in caplog.text
    assert caplog.text.count("Traceback (most recent call last)") == 1


async def test_source_that_is_cancelled_from_within_is_a_failure() -> None:
    async def awaits_a_cancelled_task() -> AsyncIterator[str]:
        yield "one"
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task

    app = app_with(lambda: SSEResponse(awaits_a_cancelled_task()))
    async with serving(app) as port, Stream(port, "/events") as stream:
        assert await stream.finish() == "truncated"
    assert stream.events[-1].event == "error"


@pytest.mark.parametrize("is_abrupt", [True, False])
async def test_client_that_leaves_closes_the_source_at_once(
    http: str, is_abrupt: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    source = Source()
    source.slow_close = True
    lifecycle = Lifecycle()
    app = WithLifecycle(app_with(lambda: SSEResponse(source())), lifecycle)
    with reasons(lifecycle) as seen:
        async with serving(app, http=http) as port:
            async with Stream(port, "/events") as stream:
                source.items.put_nowait("one")
                await stream.next_event()
                left_at = time.monotonic()
                if is_abrupt:
                    stream.abort()
            await asyncio.wait_for(source.closed.wait(), 5)
            await until(lambda: not lifecycle.streams)
    assert source.closed_at - left_at < 0.5  # 0.05 s on an idle machine
    assert seen == ["left"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_fifty_streams_are_ended_by_a_drain_with_a_final_chunk(http: str) -> None:
    sources: list[Source] = []

    def make() -> SSEResponse:
        sources.append(Source())
        return SSEResponse(sources[-1]())

    lifecycle = Lifecycle()
    with reasons(lifecycle) as seen:
        async with serving(WithLifecycle(app_with(make), lifecycle), http=http) as port:
            streams = [Stream(port, "/events") for _ in range(50)]
            for stream in streams:
                await stream.__aenter__()
            await until(lambda: len(lifecycle.streams) == 50)
            for source in sources:
                source.items.put_nowait("last words")
            lifecycle.enter(Phase.DRAINING)
            await asyncio.gather(*(stream.next_event() for stream in streams))
            for place in lifecycle.streams:
                place.leave.set()
            assert [await stream.finish() for stream in streams] == ["complete"] * 50
            for stream in streams:
                await stream.__aexit__(None, None, None)
            await until(lambda: not lifecycle.streams)
    assert seen == ["drain"] * 50
    assert all(source.closed.is_set() for source in sources)
    last = [stream.events[-1] for stream in streams]
    assert {(event.event, event.data) for event in last} == {("drain", '{"reason":"drain"}')}
    waits = [event.retry or 0 for event in last]
    assert all(1_000 <= wait <= 5_000 for wait in waits)
    assert len(set(waits)) > 10


async def test_stream_opened_during_a_drain_is_asked_to_come_back_at_once() -> None:
    source = Source()
    lifecycle = Lifecycle()
    lifecycle.enter(Phase.DRAINING)
    app = WithLifecycle(app_with(lambda: SSEResponse(source())), lifecycle)
    async with serving(app) as port, Stream(port, "/events") as stream:
        assert await stream.finish() == "complete"
    assert [event.event for event in stream.events] == ["drain"]


async def test_finite_stream_is_finished_during_a_drain() -> None:
    source = Source()
    lifecycle = Lifecycle()
    app = WithLifecycle(app_with(lambda: SSEResponse(source(), on_drain="finish")), lifecycle)
    async with serving(app) as port, Stream(port, "/events") as stream:
        lifecycle.enter(Phase.DRAINING)
        for place in lifecycle.streams:
            place.leave.set()
        source.items.put_nowait("token")
        assert (await stream.next_event()).data == "token"
        source.items.put_nowait(None)
        assert await stream.finish() == "complete"
    assert [event.event for event in stream.events] == [None]


async def flood() -> AsyncIterator[str]:
    while True:
        yield "x" * 65536


async def stalled(port: int) -> Connection:
    connection = await Connection.open(port, receive_buffer_bytes=4096)
    await connection.send(encode_request("GET", "/events"))
    return connection


async def test_stalled_reader_is_dropped_and_truncated(
    http: str, caplog: pytest.LogCaptureFixture
) -> None:
    lifecycle = Lifecycle()
    app = app_with(lambda: SSEResponse(flood(), send_timeout=0.1))
    with reasons(lifecycle) as seen:
        server = serving(WithLifecycle(app, lifecycle), http=http)
        async with server as port, await stalled(port) as connection:
            await until(lambda: seen)
            assert not lifecycle.streams
            answer = await connection.read_answer(timeout=20)
    assert answer.ended in ("truncated", "reset")
    assert seen == ["stalled"]
    assert not [record for record in caplog.records if record.exc_info]


async def test_stalled_reader_does_not_hold_up_a_drain() -> None:
    lifecycle = Lifecycle()
    app = app_with(lambda: SSEResponse(flood()))
    with reasons(lifecycle) as seen:
        async with serving(WithLifecycle(app, lifecycle)) as port, await stalled(port):
            await until(lambda: lifecycle.streams)
            for place in lifecycle.streams:
                place.leave.set()
            await until(lambda: seen, timeout=1.9)  # the drain waits 2 s
            assert not lifecycle.streams
    assert seen == ["stalled"]


async def test_stalled_reader_that_resets_frees_its_source() -> None:
    lifecycle = Lifecycle()
    app = app_with(lambda: SSEResponse(flood()))
    with reasons(lifecycle) as seen:
        async with serving(WithLifecycle(app, lifecycle)) as port:
            connection = await stalled(port)
            await until(lambda: lifecycle.streams)
            connection.abort()
            await until(lambda: seen)
    assert seen == ["left"]


async def test_other_requests_are_served_while_a_source_never_waits() -> None:
    async def endless() -> AsyncIterator[str]:
        while True:
            yield "x"

    app = app_with(lambda: SSEResponse(endless()))

    @app.get("/other")
    async def other() -> str:
        return "ok"

    async with serving(app) as port, Stream(port, "/events") as stream:
        reading = asyncio.create_task(stream.finish())
        answer = await request(port, "GET", "/other", timeout=5)
        assert answer.status == 200
        stream.abort()
        await reading
