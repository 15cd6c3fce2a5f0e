"""Endpoints that `yield`, as FastAPI has them, served by our streams."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated, Any, Literal

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field

import stormproof
from stormproof._core.lifecycle import Lifecycle, Phase
from stormproof.errors import InvalidSetting
from stormproof.stream import ServerEvent
from tests.harness import Stream, request, until
from tests.harness.stream import Event

from .serving import WithLifecycle, reasons, serving


class Tick(BaseModel):
    event: Literal["tick"] = "tick"
    number: int


class Closed(BaseModel):
    event: Literal["closed"] = "closed"
    reason: str | None = None


AnyEvent = Annotated[Tick | Closed, Field(discriminator="event")]


class Item(BaseModel):
    name: str


async def native_items() -> AsyncIterator[Any]:
    yield {"name": "a\nb"}
    yield "text"
    yield Item(name="ü")
    yield 1.5
    yield ServerSentEvent(data={"n": 1}, event="named", id="7", retry=5)
    yield ServerSentEvent(raw_data="raw\ntext", comment="hi")


async def typed_items() -> AsyncIterator[Item]:
    yield Item(name="a")
    yield {"name": "b", "secret": 1}  # type: ignore[misc]


def unspaced(event: Event) -> Event:
    return replace(event, data=event.data and event.data.replace('": ', '":'))


@pytest.mark.parametrize("endpoint", [native_items, typed_items])
async def test_events_are_those_that_fastapi_would_send(endpoint: Any) -> None:
    app = FastAPI()
    app.get("/native", response_class=EventSourceResponse)(endpoint)
    app.get("/ours")(stormproof.event_stream()(endpoint))
    async with serving(app) as port:
        async with Stream(port, "/native") as native, Stream(port, "/ours") as ours:
            assert await native.finish() == await ours.finish() == "complete"
        assert [unspaced(event) for event in ours.events] == [
            unspaced(event) for event in native.events
        ]
        for name in ("content-type", "x-accel-buffering"):
            assert ours.headers[name] == native.headers[name]


async def test_item_that_is_not_of_the_annotation_is_a_failure() -> None:
    app = FastAPI()

    @app.get("/events")
    @stormproof.event_stream()
    async def events() -> AsyncIterator[Item]:
        yield {"title": "no name"}  # type: ignore[misc]

    async with serving(app) as port, Stream(port, "/events") as stream:
        assert await stream.finish() == "truncated"
        assert [event.event for event in stream.events] == ["error"]


async def test_typed_events_are_sent_under_their_names() -> None:
    app = FastAPI()

    @app.get("/events")
    @stormproof.event_stream()
    async def events() -> AsyncIterator[AnyEvent]:
        yield Tick(number=1)
        yield ServerEvent(Tick(number=2), id="2")  # type: ignore[misc]
        yield Closed()

    async with serving(app) as port, Stream(port, "/events") as stream:
        assert await stream.finish() == "complete"
    assert [(event.event, event.id, event.data) for event in stream.events] == [
        ("tick", None, '{"event":"tick","number":1}'),
        ("tick", "2", '{"event":"tick","number":2}'),
        ("closed", None, '{"event":"closed","reason":null}'),
    ]


async def test_endpoint_that_raises_after_a_pause_is_told_and_truncated() -> None:
    """FastAPI's own stream ends as if it were complete."""
    go_on = asyncio.Event()
    app = FastAPI()

    @app.get("/events")
    @stormproof.event_stream()
    async def events() -> AsyncIterator[Tick]:
        yield Tick(number=1)
        await go_on.wait()
        raise ValueError("secret")

    async with serving(app) as port, Stream(port, "/events") as stream:
        await stream.next_event()
        go_on.set()
        assert await stream.finish() == "truncated"
    assert (stream.events[-1].event, stream.events[-1].data) == (
        "error",
        '{"error":"the stream failed"}',
    )


@asynccontextmanager
async def closing(closed: asyncio.Event) -> AsyncIterator[str]:
    yield "given"
    closed.set()


async def test_heartbeats_dependencies_and_the_drain_are_those_of_a_stream() -> None:
    closed = asyncio.Event()
    router = APIRouter(prefix="/v1")

    async def dependency() -> AsyncIterator[str]:
        async with closing(closed) as given:
            yield given

    @router.get("/events/{number}")
    @stormproof.event_stream(heartbeat=0.02, headers={"x-own": "1"})
    async def events(number: int, given: Annotated[str, Depends(dependency)]) -> AsyncIterator[Any]:
        """Say it."""
        yield [number, given]
        await asyncio.Event().wait()

    app = FastAPI()
    app.include_router(router)
    lifecycle = Lifecycle()
    with reasons(lifecycle) as seen:
        async with serving(WithLifecycle(app, lifecycle)) as port:
            async with Stream(port, "/v1/events/7") as stream:
                assert stream.headers["x-own"] == "1"
                assert (await stream.next_event()).data == '[7,"given"]'
                assert (await stream.next_event()).comment == "keep-alive"
                lifecycle.enter(Phase.DRAINING)
                for place in lifecycle.streams:
                    place.leave.set()
                assert await stream.finish() == "complete"
            assert stream.events[-1].event == "drain"
            assert (await request(port, "GET", "/v1/events/x")).status == 422
            await until(closed.is_set)
    assert seen == ["drain"]
    assert app.openapi()["paths"]["/v1/events/{number}"]["get"]["description"] == "Say it."


async def test_def_endpoint_yields_in_a_thread_and_is_closed_when_the_client_leaves() -> None:
    threads: set[int] = set()
    closed = threading.Event()
    app = FastAPI()

    @app.get("/events")
    @stormproof.event_stream()
    def events() -> Iterator[int]:
        try:
            for number in range(10**9):
                threads.add(threading.get_ident())
                yield number
        finally:
            closed.set()

    async with serving(app) as port, Stream(port, "/events") as stream:
        assert (await stream.next_event()).data == "0"
        stream.abort()
        await until(closed.is_set)
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(
    ("arguments", "body"),
    [({}, b'{"name":"a"}\n{"name":"b"}\n'), ({"format": "csv"}, b"name\r\na\r\nb\r\n")],
)
async def test_rows_may_be_yielded_by_the_endpoint(arguments: dict[str, Any], body: bytes) -> None:
    app = FastAPI()

    @app.get("/rows")
    @stormproof.row_stream(**arguments)
    async def rows() -> AsyncIterator[Item]:
        yield Item(name="a")
        yield Item(name="b")

    async with serving(app) as port:
        assert (await request(port, "GET", "/rows")).body == body


def test_openapi_says_which_event_has_which_data() -> None:
    app = FastAPI()
    stormproof.install(app)

    @app.get("/events")
    @stormproof.event_stream()
    async def events() -> AsyncIterator[AnyEvent]:
        yield Tick(number=1)

    @app.get("/rows")
    @stormproof.row_stream()
    async def rows() -> AsyncIterator[Item]:
        yield Item(name="a")

    schema = app.openapi()
    (media_type,) = schema["paths"]["/events"]["get"]["responses"]["200"]["content"].items()
    assert media_type[0] == "text/event-stream"
    tick, closed = media_type[1]["itemSchema"]["oneOf"]
    assert tick["properties"]["event"] == {"const": "tick"}
    assert tick["required"] == ["data", "event"]
    assert tick["properties"]["data"] == {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": "#/components/schemas/Tick"},
    }
    assert closed["properties"]["event"] == {"const": "closed"}
    assert set(schema["components"]["schemas"]) >= {"Tick", "Closed", "Item"}
    assert schema["paths"]["/rows"]["get"]["responses"]["200"]["content"] == {
        "application/x-ndjson": {"itemSchema": {"$ref": "#/components/schemas/Item"}}
    }
    assert app.openapi() == schema


def test_endpoint_that_does_not_yield_is_refused() -> None:
    async def returns() -> None: ...

    for decorator in (stormproof.event_stream(), stormproof.row_stream()):
        with pytest.raises(InvalidSetting, match="yields"):
            decorator(returns)  # type: ignore[arg-type]


def test_fastapis_own_response_class_beside_ours_is_refused() -> None:
    app = FastAPI()
    stormproof.install(app)
    app.get("/events", response_class=EventSourceResponse)(stormproof.event_stream()(native_items))
    with pytest.raises(InvalidSetting, match=r"/events has response_class"):
        app.build_middleware_stack()
