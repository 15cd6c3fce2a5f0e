"""`def` work: the answer leaves in time, and the thread keeps its token until it has ended."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import anyio
import anyio.to_thread
import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.middleware.base import BaseHTTPMiddleware

from stormproof._core.clock import MONOTONIC
from stormproof._core.events import DeadlineExpired, OverdueFinished

from .stage import Client, answer


@dataclass
class Work:
    """A thread's work: it ends when the test releases it."""

    release: threading.Event = field(default_factory=threading.Event)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loop = asyncio.get_running_loop()

    def block(self) -> str:
        self.log.append("began")
        self.loop.call_soon_threadsafe(self.began.set)
        assert self.release.wait(30), "the test forgot to release the thread"
        self.log.append("ended")
        return "done"


def def_endpoint(work: Work) -> FastAPI:
    app = FastAPI()

    @app.get("/slow")
    def endpoint() -> str:
        return work.block()

    return app


def def_dependency(work: Work) -> FastAPI:
    app = FastAPI()

    @app.get("/slow")
    async def endpoint(_: Annotated[str, Depends(work.block)]) -> str:
        await asyncio.sleep(0)  # the cancellation lands at the first await after the thread
        work.log.append("endpoint ran")
        return "late"

    return app


def sync_generator_dependency(work: Work) -> FastAPI:
    app = FastAPI()

    def resource() -> Iterator[str]:
        work.block()
        try:
            yield "resource"
        finally:
            work.log.append("given back")

    @app.get("/slow")
    def endpoint(_: Annotated[str, Depends(resource)]) -> str:
        work.log.append("endpoint ran")
        return "late"

    return app


def async_endpoint(work: Work) -> FastAPI:
    app = FastAPI()

    async def session() -> AsyncIterator[None]:
        try:
            yield
            work.log.append("commit")
        except BaseException as error:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            work.log.append(f"rollback {type(error).__name__}")
            raise

    @app.get("/slow")
    async def endpoint(_: Annotated[None, Depends(session)]) -> str:
        await run_in_threadpool(work.block)
        await asyncio.sleep(0)
        return "late"

    return app


def inside_async_generators(work: Work) -> FastAPI:
    app = FastAPI()

    async def walk() -> AsyncIterator[str]:
        async for item in iterate_in_threadpool(iter(work.block, "never")):
            yield item

    @app.get("/slow")
    async def endpoint() -> str:
        async for item in walk():
            await asyncio.sleep(0)
            return item
        return "late"

    return app


def behind_base_http_middleware(work: Work) -> FastAPI:
    app = def_endpoint(work)

    async def dispatch(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    return app


def beside_a_task_group(work: Work) -> FastAPI:
    app = FastAPI()

    @app.get("/slow")
    async def endpoint() -> str:
        async with anyio.create_task_group() as group:
            group.start_soon(run_in_threadpool, work.block)
        return "late"

    return app


APPS = [
    def_endpoint,
    def_dependency,
    sync_generator_dependency,
    async_endpoint,
    inside_async_generators,
    behind_base_http_middleware,
    beside_a_task_group,
]


def borrowed() -> int:
    return anyio.to_thread.current_default_thread_limiter().borrowed_tokens


@pytest.mark.parametrize("make", APPS)
async def test_the_504_leaves_and_the_thread_keeps_its_token(make: Callable[[Work], Any]) -> None:
    work, client = Work(), Client()
    task = asyncio.create_task(client.call(make(work), clock=MONOTONIC))
    try:
        await work.began.wait()
        await client.expire()
        await client.answered.wait()
        assert (client.statuses, client.is_whole) == ([504], True)
        assert client.problem["code"] == "SP301"
        assert work.log == ["began"]
        assert borrowed() == 1
        assert not task.done()
    finally:
        work.release.set()
    await task
    assert borrowed() == 0
    assert client.statuses == [504]
    expired, finished = client.seen
    assert isinstance(expired, DeadlineExpired)
    assert expired.answered
    assert isinstance(finished, OverdueFinished)
    assert task.cancelling() == 0
    expected = {
        sync_generator_dependency: ["began", "ended", "given back"],
        async_endpoint: ["began", "ended", "rollback CancelledError"],
    }
    assert work.log == expected.get(make, ["began", "ended"])


async def test_a_request_that_still_waits_for_a_thread_never_runs() -> None:
    work, first, second = Work(), Client(), Client()
    app = def_endpoint(work)
    limiter = anyio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = 1
    tasks = [asyncio.create_task(c.call(app, clock=MONOTONIC)) for c in (first, second)]
    try:
        while not limiter.statistics().tasks_waiting or not work.began.is_set():
            await asyncio.sleep(0)
        await first.expire()
        await second.expire()
        await tasks[1]
        await first.answered.wait()
        assert (first.statuses, second.statuses, work.log) == ([504], [504], ["began"])
        assert not tasks[0].done()
    finally:
        work.release.set()
    await tasks[0]
    assert work.log == ["began", "ended"]
    assert borrowed() == 0


async def test_a_thread_started_with_abandon_on_cancel_is_abandoned() -> None:
    work, client = Work(), Client()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.to_thread.run_sync(work.block, abandon_on_cancel=True)

    task = asyncio.create_task(client.call(app, clock=MONOTONIC))
    try:
        await work.began.wait()
        await client.expire()
        await task
        assert client.statuses == [504]
        assert work.log == ["began"]
    finally:
        work.release.set()


async def test_a_thread_that_ends_within_the_grace_may_still_answer() -> None:
    work, client = Work(), Client()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await run_in_threadpool(work.block)
        await answer(send)

    async def send(message: Any) -> None:
        await client.send(message)
        await asyncio.sleep(0)  # a cancellation would land here

    wrapped = client.wrap(app, answer_grace=30, clock=MONOTONIC)
    task = asyncio.create_task(wrapped(client.scope, client.receive, send))
    try:
        await work.began.wait()
        await client.expire()
    finally:
        work.release.set()
    await task
    assert (client.statuses, client.is_whole) == ([200], True)
    assert [type(event) for event in client.seen] == [DeadlineExpired]
    assert borrowed() == 0


async def test_a_foreign_cancellation_while_the_thread_runs_goes_through() -> None:
    work, client = Work(), Client()
    task = asyncio.create_task(client.call(async_endpoint(work), clock=MONOTONIC))
    try:
        await work.began.wait()
        await client.expire()
        await client.answered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "rollback CancelledError" in work.log
    finally:
        work.release.set()


async def test_a_sync_stream_cut_by_its_deadline_keeps_the_token_until_its_step_ends() -> None:
    work, client = Work(), Client()
    app = FastAPI()

    @app.get("/slow")
    async def endpoint() -> StreamingResponse:
        def body() -> Iterator[str]:
            yield "first"
            yield work.block()

        return StreamingResponse(body())

    task = asyncio.create_task(client.call(app, clock=MONOTONIC))
    try:
        await work.began.wait()
        await client.expire()
        assert [type(event) for event in client.seen] == [DeadlineExpired]
        assert (borrowed(), task.done()) == (1, False)
    finally:
        work.release.set()
    await task
    assert (client.statuses, client.body, client.is_whole) == ([200], b"first", False)
    assert borrowed() == 0


async def test_threads_that_raise_are_no_different() -> None:
    work, client = Work(), Client()

    def fail() -> None:
        work.block()
        raise ConnectionError("too late to matter")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await run_in_threadpool(partial(fail))

    task = asyncio.create_task(client.call(app, clock=MONOTONIC))
    await work.began.wait()
    await client.expire()
    await client.answered.wait()
    work.release.set()
    with pytest.raises(ConnectionError):
        await task
    assert (client.statuses, borrowed()) == ([504], 0)
