"""A failure says which request it came from, and holds nothing of that request."""

import asyncio
import gc
import weakref

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import stormproof
from stormproof._core.events import Event, TaskFailed
from stormproof._core.lifecycle import InFlight, Lifecycle
from stormproof._core.origin import detach_origin
from stormproof.tasks import TaskHandle, Tasks
from tests.virtual_time import LoopClock, run_virtually, ticks


class Route:
    path = "/orders/{id}"


def scope() -> dict[str, object]:
    return {"type": "http", "method": "POST", "path": "/orders/7", "headers": []}


async def fail() -> None:
    raise LookupError("no such order")


def test_a_failure_names_method_and_template_and_how_long_ago(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        tasks, lifecycle, heard = Tasks(), Lifecycle(clock=LoopClock()), list[Event]()
        lifecycle.events.subscribe(heard.append)
        await tasks.open(lifecycle)

        async def fail_later() -> None:
            await asyncio.sleep(3)
            await fail()

        http = scope()
        with lifecycle.request(http):
            http["route"] = Route()  # as the router does, further in
            await asyncio.sleep(1)
            handle = tasks.spawn(fail_later)
        await asyncio.sleep(10)
        assert handle.origin is not None
        assert handle.origin.name == "POST /orders/{id}"
        (event,) = heard
        assert isinstance(event, TaskFailed)
        assert event.origin == "POST /orders/{id}"
        await tasks.close()

    run_virtually(main())
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == (
        "task 'fail_later' failed 3.00 s after its start: LookupError('no such order') "
        "(from POST /orders/{id}, 4.00 s ago)"
    )


def test_a_loss_names_it_too_and_what_was_not_a_request_names_none() -> None:
    async def main() -> None:
        tasks, lifecycle = Tasks(), Lifecycle(clock=LoopClock())
        await tasks.open(lifecycle)
        own = tasks.spawn(asyncio.sleep, 3600)
        with lifecycle.request(scope()):
            tasks.spawn(asyncio.sleep, 3600)
        await asyncio.sleep(2)
        losses = await tasks.drain(lifecycle.clock.now())
        assert own.origin is None
        assert ["from" in loss.detail for loss in losses] == [False, True]
        assert losses[1].detail.endswith(", from POST /orders/7, 2.00 s ago")
        await tasks.close()

    run_virtually(main())


async def test_a_task_of_a_task_names_the_request_that_began_it() -> None:
    tasks, lifecycle, handles = Tasks(), Lifecycle(), list[TaskHandle[None]]()
    await tasks.open(lifecycle)

    async def parent() -> None:
        handles.append(tasks.spawn(asyncio.sleep, 0))

    with lifecycle.request(scope()):
        outer = tasks.spawn(parent)
    await ticks()
    assert handles[0].origin is outer.origin is not None
    await tasks.close()


async def test_after_the_request_there_is_none() -> None:
    lifecycle = Lifecycle()
    with lifecycle.request(scope()), lifecycle.request(scope()) as inner:
        pass
    assert inner.name == "POST /orders/7"
    assert detach_origin() is None


async def test_a_task_holds_neither_the_request_nor_its_scope() -> None:
    tasks, lifecycle, go = Tasks(), Lifecycle(), asyncio.Event()

    class Body:
        """What hangs on a scope: bodies, sessions, states."""

    await tasks.open(lifecycle)

    def one_request() -> "weakref.ref[Body]":
        body = Body()
        with lifecycle.request({**scope(), "state": body}):
            tasks.spawn(go.wait)
        return weakref.ref(body)

    body = one_request()
    gc.collect()
    assert body() is None
    go.set()
    await tasks.drain(asyncio.get_running_loop().time() + 60)
    await tasks.close()


@pytest.mark.parametrize("path", ["/sync", "/async", "/inner/async"])
def test_endpoints_of_every_kind_are_named(path: str) -> None:
    names = list[str | None]()
    app, inner, tasks = FastAPI(), FastAPI(), stormproof.Tasks()

    def note(handle: TaskHandle[None]) -> None:
        names.append(None if handle.origin is None else handle.origin.name)

    @app.get("/sync")
    def sync() -> None:
        note(tasks.spawn(asyncio.sleep, 0))

    @app.get("/async")
    @inner.get("/async")
    async def asynchronous() -> None:
        note(tasks.spawn(asyncio.sleep, 0))

    app.mount("/inner", inner)
    stormproof.install(app, tasks)
    with TestClient(app) as client:
        assert client.get(path).status_code == 200
    (name,) = names
    assert name is not None
    assert name.startswith("GET /")


def test_a_request_is_an_arrival() -> None:
    entry = InFlight(scope(), 5.0)
    assert (entry.name, entry.started_at) == ("POST /orders/7", 5.0)
