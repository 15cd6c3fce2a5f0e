"""`install(threads=)`: `def` endpoints have so many threads, a bounded wait for one, and 503."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from fastapi import BackgroundTasks, Depends, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, PlainTextResponse, Response, StreamingResponse

import stormproof
from stormproof.errors import InvalidSetting
from stormproof.fastapi._def_threads import bounded_def_threads
from tests.faults.in_process import Work, served
from tests.harness import Answer, request, until

THREADS = 8
CALLS = 300


async def test_300_timed_out_def_requests_leave_no_more_threads_than_the_limit() -> None:
    """Without the limiter's help there were 228 (a thread of 1 s for each caller who left)."""
    work, before = Work(), threading.active_count()
    app = FastAPI()
    app.add_api_route("/report", work.block, dependencies=[stormproof.route_deadline(0.3)])
    stormproof.install(app, prestop=0.0, threads=THREADS)
    async with served(app) as port:
        with work.opened_at_the_end():
            statuses: list[int] = []
            for _ in range(CALLS // 60):
                calls = (request(port, "GET", "/report", timeout=20.0) for _ in range(60))
                statuses += [answer.status for answer in await asyncio.gather(*calls)]
                assert threading.active_count() - before <= THREADS + 5
        assert set(statuses) <= {503, 504}
        assert statuses.count(504) >= THREADS
        assert work.begun == THREADS
        await until(lambda: work.inside == 0)


class Full:
    """A service whose only thread for `def` endpoints is at work."""

    def __init__(self, app: FastAPI, port: int, limiter: stormproof.Limiter) -> None:
        self.port = port
        self.limiter = limiter

    async def get(self, path: str, **options: Any) -> Answer:
        return await request(self.port, "GET", path, timeout=20.0, **options)


@asynccontextmanager
async def full(app: FastAPI) -> AsyncIterator[Full]:
    work, limiter = Work(), stormproof.Limiter(1, max_wait=0, name="def")
    app.add_api_route("/report", work.block)
    stormproof.install(app, prestop=0.0, threads=limiter)
    async with served(app) as port:
        with work.opened_at_the_end():
            headers = {"X-Request-Timeout": "0.2"}
            late = await request(port, "GET", "/report", headers=headers, timeout=20.0)
            assert late.status == 504
            yield Full(app, port, limiter)
        await until(lambda: work.inside == 0)


def plain() -> str:
    return "plain"


def generated() -> Iterator[str]:
    yield "generated"


async def test_a_full_pool_is_503_for_endpoints_and_dependencies() -> None:
    """The thread outlives its caller, who was answered 504, and keeps its place."""
    app = FastAPI()
    app.add_api_route("/endpoint", plain)
    for name, dependency in (("plain", plain), ("generated", generated)):

        async def endpoint(value: str = Depends(dependency)) -> str:
            return value

        app.add_api_route(f"/{name}", endpoint)
    async with full(app) as service:
        assert service.limiter.statistics().in_use == 1
        for path in ("/endpoint", "/plain", "/generated"):
            answer = await service.get(path)
            assert answer.status == 503
            assert b'"SP201"' in answer.body
            assert int(answer.headers["retry-after"]) >= 1
        assert service.limiter.statistics().refusals == {"queue": 3}
    assert service.limiter.statistics().in_use == 0


async def test_what_has_begun_is_never_refused_a_thread(tmp_path: Path) -> None:
    """Background work, streams, files and handlers of errors have threads of their own."""
    app, done = FastAPI(), threading.Event()
    (tmp_path / "file").write_bytes(b"x" * 100_000)

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> None:
        tasks.add_task(done.set)

    @app.get("/stream")
    async def stream() -> Response:
        return StreamingResponse(iter(["a", "b"]))

    @app.get("/file")
    async def file() -> Response:
        return FileResponse(tmp_path / "file")

    @app.get("/called")
    async def called() -> str:
        return await run_in_threadpool(plain)

    @app.exception_handler(LookupError)
    def explain(request: Request, error: Exception) -> Response:
        return PlainTextResponse("explained", 418)

    @app.get("/error")
    async def fail() -> None:
        raise LookupError

    async with full(app) as service:
        paths = ("/background", "/stream", "/file", "/called")
        answers = [await service.get(path) for path in paths]
        assert [answer.status for answer in answers] == [200] * 4
        assert [len(answer.body) for answer in answers[1:]] == [2, 100_000, 7]
        assert (await service.get("/error")).status == 418
        assert done.wait(20)


async def test_a_thread_that_outlives_the_service_gives_its_place_back() -> None:
    default = to_thread.current_default_thread_limiter()
    work = Work()
    with bounded_def_threads(stormproof.Limiter(1)):
        running = asyncio.create_task(run_in_threadpool(work.block))
        await until(lambda: work.inside == 1)
    work.open_gate()
    await running
    assert (default.borrowed_tokens, default.total_tokens) == (0, 40)


@pytest.mark.parametrize("threads", [0, -1, True, 2.5, "8"])
def test_the_number_of_threads_must_be_a_whole_number_above_0(threads: Any) -> None:
    with pytest.raises(InvalidSetting, match="threads="):
        stormproof.install(FastAPI(), threads=threads)
