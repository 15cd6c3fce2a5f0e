import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.middleware.base import BaseHTTPMiddleware

from stormproof._core.lifecycle import Lifecycle, Phase
from stormproof.stream import RowsResponse
from tests.harness import Connection, Stream, encode_request, request, until

from .serving import WithLifecycle, reasons, serving

Batch = Sequence[Mapping[str, Any]]

MANY: Batch = [{"n": n, "text": "x" * 100} for n in range(1_000)]
"""More than a chunk."""


def app_with(make: Callable[[], RowsResponse]) -> FastAPI:
    app = FastAPI()

    @app.api_route("/rows", methods=["GET", "HEAD"])
    async def rows() -> RowsResponse:
        return make()

    return app


async def batches(*given: Batch) -> AsyncIterator[Batch]:
    for batch in given:
        yield batch


async def test_ndjson_has_one_object_per_row_in_order() -> None:
    rows = [{"n": n, "at": datetime(2026, 1, 1, tzinfo=UTC), "d": Decimal("1.5")} for n in range(3)]
    app = app_with(lambda: RowsResponse(batches(rows[:2], [], rows[2:])))
    async with serving(app) as port:
        answer = await request(port, "GET", "/rows")
    assert answer.ended == "complete"
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert lines == [{"n": n, "at": "2026-01-01T00:00:00+00:00", "d": "1.5"} for n in range(3)]


async def test_csv_is_quoted_so_that_it_reads_back_the_same() -> None:
    nasty = ['comma, "quote"', "line\nend", "crlf\r\n", "ünï", " space ", "'"]
    rows = [{"id": number, "text": text} for number, text in enumerate(nasty)]
    app = app_with(lambda: RowsResponse(batches(rows), format="csv", filename="sales.csv"))
    async with serving(app) as port:
        answer = await request(port, "GET", "/rows")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="sales.csv"'
    read = list(csv.reader(io.StringIO(answer.body.decode(), newline="")))
    assert read == [["id", "text"], *([str(n), text] for n, text in enumerate(nasty))]


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ({"format": "csv", "columns": ["id", "name"]}, b"id,name\r\n"),
        ({"format": "csv"}, b""),
        ({}, b""),
    ],
)
async def test_export_without_rows_is_complete(arguments: dict[str, Any], body: bytes) -> None:
    async with serving(app_with(lambda: RowsResponse(batches(), **arguments))) as port:
        answer = await request(port, "GET", "/rows")
    assert (answer.ended, answer.body) == ("complete", body)


async def test_columns_choose_and_order() -> None:
    rows = [{"a": 1, "b": None, "c": 3}, {"c": 6}]
    for format, body in (("csv", b"c,b\r\n3,\r\n6,\r\n"), ("ndjson", None)):
        response = lambda: RowsResponse(batches(rows), format=format, columns=["c", "b"])  # noqa: B023, E731
        async with serving(app_with(response)) as port:
            answer = await request(port, "GET", "/rows")
        assert answer.body == (body or b'{"c":3,"b":null}\n{"c":6,"b":null}\n')


async def test_large_batches_arrive_whole() -> None:
    rows = [{"n": n} for n in range(5_001)]
    async with serving(app_with(lambda: RowsResponse(batches(rows, rows), format="csv"))) as port:
        answer = await request(port, "GET", "/rows")
    assert answer.body.count(b"\r\n") == 2 * 5_001 + 1


async def breaks_after(*given: Batch) -> AsyncIterator[Batch]:
    for batch in given:
        yield batch
    raise ConnectionError("the database went away")


@pytest.mark.parametrize("is_wrapped", [False, True], ids=["bare", "BaseHTTPMiddleware"])
@pytest.mark.parametrize("format", ["csv", "ndjson"])
async def test_export_that_breaks_never_looks_complete(format: Any, is_wrapped: bool) -> None:
    app = app_with(lambda: RowsResponse(breaks_after(MANY), format=format))
    if is_wrapped:
        app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, go_on: go_on(request))
    lifecycle = Lifecycle()
    with reasons(lifecycle) as seen:
        async with serving(WithLifecycle(app, lifecycle)) as port:
            answer = await request(port, "GET", "/rows")
    assert answer.ended == "truncated"
    assert b"1" in answer.body
    assert seen == ["failed"]


@pytest.mark.parametrize("rows", [(), ([{"n": 1}],)], ids=["at once", "before a chunk was full"])
async def test_export_that_breaks_before_its_first_byte_is_answered_like_any_error(
    rows: Sequence[Batch],
) -> None:
    app = app_with(lambda: RowsResponse(breaks_after(*rows)))

    @app.exception_handler(ConnectionError)
    async def unavailable(request: Any, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 503)

    async with serving(app) as port:
        answer = await request(port, "GET", "/rows")
    assert (answer.status, answer.ended) == (503, "complete")
    assert json.loads(answer.body) == {"error": "the database went away"}


async def test_row_with_a_new_column_is_an_error_not_a_loss() -> None:
    wide = [{"n": 2, "text": "y", "more": 3}]
    app = app_with(lambda: RowsResponse(batches(MANY, wide), format="csv"))
    async with serving(app) as port:
        assert (await request(port, "GET", "/rows")).ended == "truncated"


async def test_export_is_finished_during_a_drain() -> None:
    go_on = asyncio.Event()

    async def two() -> AsyncIterator[Batch]:
        yield [{"n": 1}]
        await go_on.wait()
        yield [{"n": 2}]

    lifecycle = Lifecycle()
    app = WithLifecycle(app_with(lambda: RowsResponse(two())), lifecycle)
    async with serving(app) as port, Stream(port, "/rows") as stream:
        assert await anext(stream) == b'{"n":1}\n'
        lifecycle.enter(Phase.DRAINING)
        assert not lifecycle.streams  # it is a request in flight: nobody asks it to leave
        go_on.set()
        assert await anext(stream) == b'{"n":2}\n'
        assert await stream.finish() == "complete"


class Endless:
    """Counts the batches that were asked for, and tells that it was closed."""

    def __init__(self) -> None:
        self.asked = 0
        self.closed = asyncio.Event()

    async def __call__(self) -> AsyncIterator[Batch]:
        try:
            while True:
                self.asked += 1
                yield [{"text": "x" * 1000}] * 100
        finally:
            await asyncio.sleep(0)
            self.closed.set()


async def test_slow_reader_slows_the_source_down_and_a_stalled_one_is_cut() -> None:
    source = Endless()
    lifecycle = Lifecycle()
    app = app_with(lambda: RowsResponse(source(), send_timeout=0.3))
    with reasons(lifecycle) as seen:
        server = serving(WithLifecycle(app, lifecycle))
        connecting = Connection.open
        async with server as port, await connecting(port, receive_buffer_bytes=4096) as connection:
            await connection.send(encode_request("GET", "/rows"))
            await until(lambda: seen)
            assert source.closed.is_set()
            assert source.asked < 100  # 10 MB: the kernel's buffers and uvicorn's, no more
            answer = await connection.read_answer(timeout=20)
    assert answer.ended in ("truncated", "reset")
    assert seen == ["stalled"]


async def test_client_that_leaves_closes_the_source() -> None:
    source = Endless()
    lifecycle = Lifecycle()
    with reasons(lifecycle) as seen:
        app = WithLifecycle(app_with(lambda: RowsResponse(source())), lifecycle)
        async with serving(app) as port:
            async with Stream(port, "/rows") as stream:
                await anext(stream)
                stream.abort()
            await asyncio.wait_for(source.closed.wait(), 5)
            await until(lambda: seen)
    assert seen == ["left"]


async def test_head_asks_for_no_rows() -> None:
    source = Endless()
    async with serving(app_with(lambda: RowsResponse(source(), filename="ü.csv"))) as port:
        answer = await request(port, "HEAD", "/rows")
    assert (answer.ended, answer.body, source.asked) == ("complete", b"", 0)
    assert answer.headers["content-disposition"] == "attachment; filename*=utf-8''%C3%BC.csv"
