"""Exports that are resumed: real sockets, a real disk."""

import asyncio
import gc
import json
import os
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware

import stormproof
from stormproof._core.lifecycle import Lifecycle
from stormproof.errors import InvalidSetting, StormproofError
from stormproof.fastapi._problems import as_problem
from stormproof.stream import Exports
from stormproof.stream._ranges import asked_range
from stormproof.stream._shelf import Shelf
from stormproof.stream._spool import Disk, Spool
from tests.faults.in_process import serving as serving_app
from tests.harness import Stream, request, until

from .asgi import Server, scope
from .serving import serving

LINES = 4_000
BODY = b"".join(b'{"n":%d,"text":"%s"}\n' % (n, b"x" * 60) for n in range(LINES))


class Source:
    """Gives numbered rows in batches, counts how often it was begun, and may wait or fail."""

    def __init__(self, *, lines: int = LINES) -> None:
        self.lines = lines
        self.began = 0
        self.closed = 0
        self.pause_at: int | None = None
        self.go_on = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> AsyncIterator[Any]:
        self.began += 1
        try:
            for first in range(0, self.lines, 500):
                if first == self.pause_at:
                    await self.go_on.wait()
                    if self.error is not None:
                        raise self.error
                yield [{"n": n, "text": "x" * 60} for n in range(first, first + 500)]
        finally:
            self.closed += 1


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[Exports]:
    exports = Exports(**settings)
    await exports.open(Lifecycle())
    try:
        yield exports
    finally:
        await exports.drain(0.0)
        await exports.close()


def app_with(exports: Exports, source: Callable[[], Any], **arguments: Any) -> FastAPI:
    app = FastAPI()
    app.add_exception_handler(StormproofError, as_problem)

    @app.api_route("/{key}", methods=["GET", "HEAD"])
    async def export(key: str) -> Any:
        return exports.response(key, source, **arguments)

    return app


async def test_client_that_broke_off_resumes_with_the_same_bytes() -> None:
    source = Source()
    async with opened() as exports, serving(app_with(exports, source)) as port:
        async with Stream(port, "/a") as stream:
            etag = stream.headers["etag"]
            assert stream.headers["accept-ranges"] == "bytes"
            begin = await anext(stream)
            stream.abort()
        resume = {"range": f"bytes={len(begin)}-", "if-range": etag}
        rest = await request(port, "GET", "/a", headers=resume)
        assert (rest.status, rest.ended) == (206, "complete")
        assert rest.headers["content-range"] == f"bytes {len(begin)}-{len(BODY) - 1}/{len(BODY)}"
        assert rest.headers["etag"] == etag
        assert begin + rest.body == BODY
        whole = await request(port, "GET", "/a")
        assert (whole.status, whole.body) == (200, BODY)
        assert whole.headers["content-length"] == str(len(BODY))
    assert (source.began, source.closed) == (1, 1)


async def test_two_readers_at_once_share_what_is_being_written() -> None:
    source = Source()
    source.pause_at = 2_000
    async with opened() as exports, serving(app_with(exports, source)) as port:
        async with Stream(port, "/a") as one, Stream(port, "/a") as two:
            first = [await anext(one), await anext(two)]
            assert "content-length" not in one.headers
            source.go_on.set()
            bodies = [first[0], first[1]]
            for number, stream in enumerate((one, two)):
                async for chunk in stream:
                    bodies[number] += chunk
                assert stream.ended == "complete"
        assert bodies == [BODY, BODY]
        other = await request(port, "GET", "/b")
        assert other.headers["etag"] != one.headers["etag"]
    assert source.began == 2


async def test_range_of_what_is_being_written_waits_for_its_end() -> None:
    source = Source()
    source.pause_at = 2_000
    async with (
        opened() as exports,
        serving(app_with(exports, source)) as port,
        Stream(port, "/a") as stream,
    ):
        headers = {"range": "bytes=-9", "if-range": stream.headers["etag"]}
        asking = asyncio.create_task(request(port, "GET", "/a", headers=headers))
        await until(lambda: next(iter(exports._shelf.of("a"))).readers == 2)
        source.go_on.set()
        answer = await asking
        assert (answer.status, answer.body) == (206, BODY[-9:])


async def test_range_that_would_wait_too_long_is_told_to_come_back() -> None:
    """And not given what is there: that would look like the whole rest."""
    source = Source()
    source.pause_at = 2_000
    async with (
        opened(ready_within=0.05) as exports,
        serving(app_with(exports, source)) as port,
        Stream(port, "/a") as stream,
    ):
        headers = {"range": "bytes=10-", "if-range": stream.headers["etag"]}
        answer = await request(port, "GET", "/a", headers=headers)
        assert (answer.status, json.loads(answer.body)["code"]) == (503, "SP814")
        assert answer.headers["retry-after"] == "5"


@pytest.mark.parametrize(
    ("headers", "status", "body"),
    [
        ({"range": "bytes=0-9"}, 206, BODY[:10]),
        ({"range": "bytes=-10"}, 206, BODY[-10:]),
        ({"range": f"bytes={len(BODY) - 3}-{len(BODY) + 99}"}, 206, BODY[-3:]),
        ({"range": f"bytes={len(BODY)}-"}, 416, b""),
        ({"range": "bytes=-0"}, 416, b""),
        ({"range": "bytes=5-", "if-range": '"another"'}, 200, BODY),
        ({"range": "bytes=5-", "if-range": "Sat, 28 Nov 2026 13:00:00 GMT"}, 200, BODY),
        ({"range": "bytes=0-1,5-6"}, 200, BODY),
        ({"range": "lines=0-1"}, 200, BODY),
        ({"range": "bytes=9-1"}, 200, BODY),
    ],
)
async def test_ranges_of_a_whole_export(headers: dict[str, str], status: int, body: bytes) -> None:
    source = Source()
    async with opened() as exports, serving(app_with(exports, source)) as port:
        await request(port, "GET", "/a")
        answer = await request(port, "GET", "/a", headers=headers)
        assert (answer.status, answer.body, answer.ended) == (status, body, "complete")
        if status == 416:
            assert answer.headers["content-range"] == f"bytes */{len(BODY)}"
    assert source.began == 1


def test_sizes_that_are_no_number_are_ignored() -> None:
    for field in ("bytes=", "bytes=-", "bytes=a-b", "bytes=\u0661-", "", None):
        assert asked_range(field) is None


async def test_range_without_a_known_export_is_answered_with_the_whole() -> None:
    """The client's first half is of another export: a part of this one must not follow it."""
    async with opened() as exports, serving(app_with(exports, Source())) as port:
        answer = await request(port, "GET", "/a", headers={"range": "bytes=5-"})
        assert (answer.status, answer.body) == (200, BODY)


async def test_compression_keeps_off_what_is_to_be_resumed() -> None:
    """It would send other bytes under the same entity tag, and ranges of those do not fit."""
    async with opened() as exports:
        app = app_with(exports, Source())
        app.add_middleware(GZipMiddleware)
        async with serving(app) as port:
            headers = {"accept-encoding": "gzip"}
            assert (await request(port, "GET", "/a", headers=headers)).body == BODY


async def test_head_tells_what_is_kept_and_begins_nothing() -> None:
    source = Source()
    async with opened() as exports, serving(app_with(exports, source)) as port:
        before = await request(port, "HEAD", "/a")
        assert (before.status, "etag" in before.headers, source.began) == (200, False, 0)
        whole = await request(port, "GET", "/a")
        after = await request(port, "HEAD", "/a")
        assert after.headers["etag"] == whole.headers["etag"]
        assert after.headers["content-length"] == str(len(BODY))
    assert source.began == 1


async def test_csv_is_spooled_like_ndjson() -> None:
    source = Source(lines=500)
    arguments = {"format": "csv", "columns": ["n"], "filename": "a.csv"}
    async with opened() as exports, serving(app_with(exports, source, **arguments)) as port:
        answer = await request(port, "GET", "/a")
    assert answer.body == b"n\r\n" + b"".join(b"%d\r\n" % n for n in range(500))
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="a.csv"'


async def test_client_that_leaves_does_not_stop_the_writing() -> None:
    source = Source()
    source.pause_at = 2_000
    async with opened() as exports, serving(app_with(exports, source)) as port:
        async with Stream(port, "/a") as stream:
            etag = stream.headers["etag"]
            stream.abort()
        await until(lambda: not next(iter(exports._shelf.of("a"))).readers)
        source.go_on.set()
        headers = {"range": "bytes=0-", "if-range": etag}
        assert (await request(port, "GET", "/a", headers=headers)).body == BODY


@pytest.mark.parametrize("pause_at", [0, 2_000])
async def test_export_whose_source_fails_never_looks_whole(pause_at: int) -> None:
    """Before the first byte the error is the answer; after it, the transfer breaks."""
    source = Source()
    source.pause_at, source.error = pause_at, ConnectionError("the database went away")
    async with opened() as exports, serving(app_with(exports, source)) as port:
        if pause_at:
            async with Stream(port, "/a") as stream:
                headers = {"range": "bytes=5-", "if-range": stream.headers["etag"]}
                waiting = asyncio.create_task(request(port, "GET", "/a", headers=headers))
                await until(lambda: next(iter(exports._shelf.of("a"))).readers == 2)
                source.go_on.set()
                assert await stream.finish() == "truncated"
            assert (await waiting).status == 500
        else:
            source.go_on.set()
            assert (await request(port, "GET", "/a")).status == 500
        source.error = None
        assert (await request(port, "GET", "/a")).body == BODY
    assert (source.began, source.closed) == (2, 2)


async def test_source_that_keeps_silent_is_given_up() -> None:
    source = Source()
    source.pause_at = 0
    app_of = app_with
    async with opened() as exports, serving(app_of(exports, source, idle_timeout=0.05)) as port:
        answer = await request(port, "GET", "/a")
        assert (answer.status, json.loads(answer.body)["code"]) == (504, "SP811")
    assert source.closed == 1


async def test_so_many_are_written_at_once() -> None:
    source = Source()
    source.pause_at = 2_000
    async with opened(max_running=1) as exports, serving(app_with(exports, source)) as port:
        async with Stream(port, "/a") as stream:
            refused = await request(port, "GET", "/b")
            assert (refused.status, json.loads(refused.body)["code"]) == (503, "SP812")
            source.go_on.set()
            assert await stream.finish() == "complete"
        assert (await request(port, "GET", "/b")).status == 200


async def test_room_is_made_by_what_is_unused_and_one_that_has_none_is_cut() -> None:
    source = Source()
    settings = {"max_bytes": len(BODY) + 1_000, "max_exports": 2}
    async with opened(**settings) as exports, serving(app_with(exports, source)) as port:
        assert (await request(port, "GET", "/a")).ended == "complete"
        assert (await request(port, "GET", "/b")).ended == "complete"
        assert [list(exports._shelf.of("a")), len(list(exports._shelf.of("b")))] == [[], 1]
        source.lines = 2 * LINES
        assert (await request(port, "GET", "/c")).ended == "truncated"
        assert not list(exports._shelf.of("c"))


async def test_files_are_kept_without_a_name_and_removed_at_their_age(tmp_path: Path) -> None:
    source = Source()
    settings = {"directory": str(tmp_path), "keep": 0.05, "fresh_for": 0.0}
    async with opened(**settings) as exports, serving(app_with(exports, source)) as port:
        await request(port, "GET", "/a")
        assert list(tmp_path.iterdir()) == []
        await until(lambda: not list(exports._shelf.of("a")))
        await until(lambda: not _open_under(tmp_path))
        await request(port, "GET", "/a")
        await request(port, "GET", "/a")
    assert source.began == 3  # none is given to who comes later than fresh_for
    assert not _open_under(tmp_path)


async def test_what_nobody_reads_is_given_up_at_its_age_though_it_is_not_written_yet() -> None:
    source = Source()
    source.pause_at = 2_000
    async with opened(keep=0.05, fresh_for=0.0) as exports:
        async with serving(app_with(exports, source)) as port, Stream(port, "/a") as stream:
            stream.abort()
            await until(lambda: source.closed == 1)
        assert not exports._writers


async def test_request_is_not_kept_for_as_long_as_its_export() -> None:
    """A timer holds the context that it was set in, and that of a request holds the request."""

    class Request:
        pass

    variable: ContextVar[Request] = ContextVar("variable")
    disk = Disk()
    shelf = Shelf(max_bytes=1, max_spools=1, keep=600.0, on_removed=lambda spool: None)

    def put() -> "weakref.ref[Request]":
        request = Request()
        variable.set(request)
        shelf.put("a", Spool(disk, media_type="", now=asyncio.get_running_loop().time()))
        return weakref.ref(request)

    kept = copy_context().run(put)
    gc.collect()
    assert kept() is None
    assert len(list(shelf.of("a"))) == 1
    shelf.close()
    await disk.close()


async def test_drain_gives_up_what_nobody_reads_and_loses_nothing() -> None:
    source = Source()
    source.pause_at = 2_000
    exports = Exports()
    await exports.open(Lifecycle())
    async with serving(app_with(exports, source)) as port:
        async with Stream(port, "/a") as stream:
            stream.abort()
        await until(lambda: not next(iter(exports._shelf.of("a"))).readers)
        assert await exports.drain(0.0) == ()
        assert source.closed == 1
        await exports.close()
        answer = await request(port, "GET", "/a")
        assert (answer.status, json.loads(answer.body)["code"]) == (500, "SP106")


async def test_shutdown_finishes_what_is_read_and_gives_up_what_is_not() -> None:
    read, unread = Source(), Source()
    read.pause_at = unread.pause_at = 2_000
    exports = Exports()
    app = FastAPI()
    stormproof.install(app, exports, prestop=0, grace=5)

    @app.get("/{key}")
    async def export(key: str) -> Any:
        return exports.response(key, read if key == "read" else unread)

    async with serving_app(app) as (server, port):
        async with Stream(port, "/unread") as stream:
            stream.abort()
        async with Stream(port, "/read") as stream:
            body = await anext(stream)
            server.should_exit = True
            read.go_on.set()
            async for chunk in stream:
                body += chunk
            assert (stream.ended, body) == ("complete", BODY)
    assert (read.closed, unread.closed) == (1, 1)
    assert exports._disk is None


async def test_cancelled_at_any_tick_leaves_the_part_whole() -> None:
    async with opened() as exports:
        for ticks in range(40):
            source = Source(lines=500)
            server = Server()
            response = exports.response(ticks, source)
            running = asyncio.create_task(response(scope(), server.receive, server.send))
            for _ in range(ticks):
                await asyncio.sleep(0)
            running.cancel()
            await asyncio.wait([running])
            assert running.cancelled() or (running.exception() is None and server.is_complete)
            await until(lambda: not exports._writers)
            assert all(not spool.readers for spool in exports._shelf.of(ticks))
            assert source.closed == source.began
            assert len(asyncio.all_tasks()) == 1


async def test_folder_that_cannot_hold_a_file_stops_the_start(tmp_path: Path) -> None:
    exports = Exports(directory=str(tmp_path / "missing"))
    with pytest.raises(InvalidSetting, match="missing"):
        await exports.open(Lifecycle())


@pytest.mark.parametrize(
    "settings",
    [{"max_bytes": 0}, {"max_exports": 1.5}, {"max_running": 0}, {"keep": 0}, {"fresh_for": 601.0}],
)
def test_wrong_settings_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(settings))):
        Exports(**settings)


def _open_under(folder: Path) -> list[str]:
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(descriptor))
        except FileNotFoundError:
            continue
    return [link for link in links if link.startswith(str(folder))]
