"""What an idle subscriber lets go of, and that its owners do not notice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request

from stormproof.stream import Hub
from stormproof.stream._idle import slim
from tests.harness import Stream, until

from .serving import serving


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_stream_behind_a_route_keeps_no_room_for_what_never_comes(http: str) -> None:
    """A release of FastAPI or uvicorn that keeps it elsewhere is noticed here."""
    hub, app = Hub(), FastAPI()
    requests: list[Request] = []

    @app.get("/events")
    async def events(request: Request) -> Any:
        requests.append(request)
        return hub.response(["t"])

    async with serving(app, http=http) as port, Stream(port, "/events") as stream:
        await stream.next_event()
        (request,) = requests
        cycle: Any = request.receive.__self__  # type: ignore[attr-defined]
        held = [
            request.scope["fastapi_middleware_astack"]._exit_callbacks,
            request.scope["fastapi_inner_astack"]._exit_callbacks,
            request.scope["fastapi_function_astack"]._exit_callbacks,
            cycle.flow._is_writable_event._waiters,
        ]
        assert held == [[], [], [], []]
        assert isinstance(cycle.message_event._waiters, list)  # the stream waits in it
        requests.clear()


async def test_dependency_is_closed_after_its_stream_and_not_before() -> None:
    hub, app = Hub(), FastAPI()
    closed: list[str] = []

    async def held() -> AsyncIterator[None]:
        yield
        closed.append("held")

    @app.get("/events")
    async def events(held: Annotated[None, Depends(held)]) -> Any:
        return hub.response(["t"])

    async with serving(app) as port:
        async with Stream(port, "/events") as stream:
            await stream.next_event()
            assert not closed
        await until(lambda: closed == ["held"])


async def test_stack_and_event_work_as_before() -> None:
    closed: list[int] = []

    class Cycle:
        message_event = asyncio.Event()

        async def receive(self) -> Any: ...

    cycle = Cycle()
    async with AsyncExitStack() as stack:
        slim({"fastapi_inner_astack": stack}, cycle.receive)
        for number in range(3):
            stack.callback(closed.append, number)
        waiting = [asyncio.create_task(cycle.message_event.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        cycle.message_event.set()
        assert await asyncio.gather(*waiting[1:]) == [True, True]
    assert closed == [2, 1, 0]


async def test_what_is_in_use_is_left_alone() -> None:
    async with AsyncExitStack() as stack:
        stack.callback(int)
        callbacks = stack._exit_callbacks  # type: ignore[attr-defined]
        slim({"fastapi_inner_astack": stack}, asyncio.Event().wait)
        assert stack._exit_callbacks is callbacks  # type: ignore[attr-defined]
