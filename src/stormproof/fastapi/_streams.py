"""`event_stream` and `row_stream`: endpoints that `yield`, served by our streams."""

import inspect
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar, get_args, get_origin

from fastapi import FastAPI
from fastapi.concurrency import iterate_in_threadpool, run_in_threadpool
from fastapi.responses import Response
from fastapi.routing import iter_route_contexts
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import TypeAdapter

from stormproof.errors import InvalidSetting
from stormproof.stream import EventNames, RowsResponse, ServerEvent, SSEResponse, json_event

P = ParamSpec("P")
R = TypeVar("R", bound=Response)

Yields = Callable[P, AsyncIterable[Any] | Iterable[Any]]

MARK = "stormproof_stream"
"""Where an endpoint says what it streams, for the app's OpenAPI."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """What an endpoint streams: the media type, and the type of its items or None."""

    media_type: str
    item: Any


def event_stream(
    *,
    heartbeat: float = 15.0,
    retry_ms: int | None = None,
    on_drain: Literal["leave", "finish"] = "leave",
    send_timeout: float = 30.0,
    idle_timeout: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> Callable[[Yields[P]], Callable[P, Awaitable[SSEResponse]]]:
    """Return a decorator that serves an endpoint with `yield` as an `SSEResponse`.

    It stands below the route's decorator, in place of its `response_class=EventSourceResponse`;
    the endpoint stays as it is. What it yields is checked against its annotation and written as
    JSON, as FastAPI does; `ServerSentEvent`, `ServerEvent` and bytes as themselves. With
    `install`, the OpenAPI of the app says what the events are: of a union of models with a
    field `event: Literal["name"]`, which event has which data. A `def` endpoint runs in a thread
    of FastAPI's. An injected `Response` is not asked for headers: use `headers`.

    Args:
        heartbeat: As for `SSEResponse`, like all that follow.
        retry_ms: Milliseconds a browser waits before it connects again.
        on_drain: Whether it leaves at a drain or finishes.
        send_timeout: Seconds the reader may take nothing.
        idle_timeout: Seconds the endpoint may take for an event.
        headers: More response headers.

    Raises:
        InvalidSetting: What is decorated does not `yield`.

    versionadded: 0.1
    """

    def decorate(endpoint: Yields[P]) -> Callable[P, Awaitable[SSEResponse]]:
        item = _item_type("event_stream", endpoint)
        encode = _EventEncoder(item)

        def respond(source: AsyncIterable[Any]) -> SSEResponse:
            return _EncodedSSE(
                source, encode, heartbeat=heartbeat, retry_ms=retry_ms, on_drain=on_drain,
                send_timeout=send_timeout, idle_timeout=idle_timeout, headers=headers,
            )  # fmt: skip

        return _served(endpoint, respond, Streamed("text/event-stream", item))

    return decorate


def row_stream(
    *,
    format: Literal["ndjson", "csv", "arrow"] = "ndjson",
    columns: Sequence[str] | None = None,
    filename: str | None = None,
    escape_formulas: bool = False,
    send_timeout: float = 30.0,
    idle_timeout: float | None = 60.0,
    headers: Mapping[str, str] | None = None,
) -> Callable[[Yields[P]], Callable[P, Awaitable[RowsResponse]]]:
    """Return a decorator that serves an endpoint with `yield` as a `RowsResponse`.

    It stands below the route's decorator; the endpoint yields rows or batches of them. They
    are written as `RowsResponse` writes them, whatever the annotation says.

    Args:
        format: As for `RowsResponse`, like all that follow.
        columns: The columns and their order.
        filename: The name a browser saves under.
        escape_formulas: Whether text that a spreadsheet would run is defused ("csv").
        send_timeout: Seconds the reader may take nothing.
        idle_timeout: Seconds the endpoint may take for a row or batch.
        headers: More response headers.

    Raises:
        InvalidSetting: What is decorated does not `yield`.

    versionadded: 0.1
    """

    def decorate(endpoint: Yields[P]) -> Callable[P, Awaitable[RowsResponse]]:
        item = _item_type("row_stream", endpoint)

        def respond(source: AsyncIterable[Any]) -> RowsResponse:
            return RowsResponse(
                source, format=format, columns=columns, filename=filename,
                escape_formulas=escape_formulas, send_timeout=send_timeout,
                idle_timeout=idle_timeout, headers=headers,
            )  # fmt: skip

        media_type = respond(_nothing()).media_type or ""
        return _served(endpoint, respond, Streamed(media_type.partition(";")[0], item))

    return decorate


def check_streams(app: FastAPI) -> None:
    """Raise InvalidSetting for a route that FastAPI would serve as a stream of its own, too."""
    for context in iter_route_contexts(app.routes):
        if hasattr(context.endpoint, MARK) and _is_native(getattr(context, "response_class", None)):
            raise InvalidSetting(
                f"{context.path} has response_class=EventSourceResponse beside event_stream() or "
                f"row_stream(), which stand in its place; remove it"
            )


def _is_native(response_class: Any) -> bool:
    return isinstance(response_class, type) and issubclass(response_class, EventSourceResponse)


class _EncodedSSE(SSEResponse):
    """Events that the endpoint's own encoder writes."""

    def __init__(self, source: AsyncIterable[Any], encoder: "_EventEncoder", **given: Any) -> None:
        super().__init__(source, **given)
        self._encoder = encoder

    def encode(self, item: Any) -> bytes:
        return self._encoder.encode(item) or super().encode(item)


class _EventEncoder:
    """Writes what an endpoint yields as FastAPI does: as JSON, checked against the annotation."""

    def __init__(self, item: Any) -> None:
        is_checked = item is not None and item is not Any and not _is_event(item)
        self._adapter: TypeAdapter[Any] = TypeAdapter(item if is_checked else Any)
        self._names = EventNames()

    def encode(self, item: Any) -> bytes | None:
        """Return the bytes of `item`, or None for what is an event already."""
        if isinstance(item, ServerEvent | bytes):
            return None
        if isinstance(item, ServerSentEvent):
            return self._sent(item)
        checked = self._adapter.validate_python(item, from_attributes=True)
        return json_event(self._adapter.dump_json(checked, by_alias=True), self._names.of(checked))

    def _sent(self, event: ServerSentEvent) -> bytes:
        data = event.raw_data
        if event.data is not None:
            data = TypeAdapter(Any).dump_json(event.data).decode()
        return ServerEvent(
            data, event=event.event, id=event.id, retry_ms=event.retry, comment=event.comment
        ).encode()


def _served(
    endpoint: Yields[P], respond: Callable[[AsyncIterable[Any]], R], streamed: Streamed
) -> Callable[P, Awaitable[R]]:
    """Return an endpoint with the signature of `endpoint` that answers with its stream.

    Without `__wrapped__`: FastAPI would look through it, and see a generator.
    """

    async def serve(*args: P.args, **kwargs: P.kwargs) -> R:
        items = endpoint(*args, **kwargs)
        return respond(items if isinstance(items, AsyncIterable) else _from_thread(items))

    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(serve, name, getattr(endpoint, name))
    signature = _signature(endpoint).replace(return_annotation=Response)
    serve.__signature__ = signature  # type: ignore[attr-defined]
    setattr(serve, MARK, streamed)
    return serve


def _item_type(decorator: str, endpoint: Callable[..., Any]) -> Any:
    """Return the type of the items that `endpoint` yields by its annotation, or None."""
    if not (inspect.isasyncgenfunction(endpoint) or inspect.isgeneratorfunction(endpoint)):
        raise InvalidSetting(
            f"{decorator}() is for an endpoint that yields, which {endpoint!r} does not; let it "
            f"return an SSEResponse or a RowsResponse instead"
        )
    annotation = _signature(endpoint).return_annotation
    given = get_args(annotation) if get_origin(annotation) is not None else ()
    return given[0] if given else None


def _signature(endpoint: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(endpoint, eval_str=True)
    except NameError:  # a name that only a type checker sees
        return inspect.signature(endpoint)


def _is_event(item: Any) -> bool:
    return isinstance(item, type) and issubclass(item, ServerSentEvent | ServerEvent)


async def _from_thread(items: Iterable[Any]) -> AsyncIterator[Any]:
    try:
        async for item in iterate_in_threadpool(items):
            yield item
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            await run_in_threadpool(close)


async def _nothing() -> AsyncIterator[Any]:
    return
    yield
