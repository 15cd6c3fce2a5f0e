"""`stormproof.BackgroundTasks`: Starlette's signature, and the work is the supervisor's."""

import asyncio
import logging
import os
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import fastapi
import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.background import BackgroundTask

import stormproof
from stormproof.errors import SessionClosed
from tests.faults.in_process import served
from tests.harness import Connection, request, until


class World:
    """An app with a supervisor, and what its endpoints and tasks have noted."""

    def __init__(self, **options: Any) -> None:
        self.notes: list[str] = []
        self.go = asyncio.Event()
        self.app = FastAPI()
        self.tasks = stormproof.Tasks(**options)
        self.lifecycle = stormproof.install(self.app, self.tasks, prestop=0.0)

    async def work(self, name: str) -> None:
        self.notes.append(name)

    async def wait(self, name: str) -> None:
        await self.go.wait()
        self.notes.append(name)

    async def fail(self) -> None:
        raise LookupError("no such user")

    def block(self, name: str) -> None:
        self.notes.append(f"{name} in {threading.current_thread().name}")

    async def all_done(self) -> None:
        await until(lambda: self.tasks.statistics().running == 0, what="the tasks to end")


@pytest.fixture
def world() -> World:
    return World()


async def test_the_annotation_alone_is_enough_and_nothing_of_it_is_in_the_schema(
    world: World,
) -> None:
    @world.app.post("/mails/{number}")
    async def accept(number: int, background_tasks: stormproof.BackgroundTasks) -> str:
        assert isinstance(background_tasks, fastapi.BackgroundTasks)
        background_tasks.add_task(world.work, name=f"mail {number}")
        return "queued"

    async with served(world.app) as port:
        assert (await request(port, "POST", "/mails/7")).status == 200
        await world.all_done()
    assert world.notes == ["mail 7"]
    operation = world.app.openapi()["paths"]["/mails/{number}"]["post"]
    assert [parameter["name"] for parameter in operation["parameters"]] == ["number"]
    assert "requestBody" not in operation


async def test_plain_functions_partials_and_lambdas_run_in_the_order_they_were_added(
    world: World,
) -> None:
    class Sender:
        async def __call__(self, name: str) -> None:
            world.notes.append(name)

    @world.app.post("/")
    async def accept(background: stormproof.BackgroundTasks) -> None:
        background.add_task(world.work, "first")
        background.add_task(world.block, "second")
        background.add_task(lambda: world.work("third"))
        background.add_task(Sender(), "fourth")

    async with served(world.app) as port:
        assert (await request(port, "POST", "/")).status == 200
        await world.all_done()
    assert world.notes == ["first", "second in stormproof task", "third", "fourth"]


async def test_one_that_fails_is_logged_and_does_not_drop_the_next(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    @world.app.post("/users/{id}")
    async def accept(id: int, background: stormproof.BackgroundTasks) -> None:
        background.add_task(world.fail)
        background.add_task(world.work, "next")

    async with served(world.app) as port, await Connection.open(port) as connection:
        assert (await connection.request("POST", "/users/7")).status == 200
        await world.all_done()
        again = await connection.request("POST", "/users/8")
        assert again.status == 200, "the connection is kept"
        await world.all_done()
    assert world.notes == ["next", "next"]
    messages = [record.getMessage() for record in caplog.records if record.levelno > 30]
    assert len(messages) == 2
    assert "LookupError('no such user') (from POST /users/{id}, 0.0" in messages[0]
    statistics = world.tasks.statistics()
    assert (statistics.accepted, statistics.failed, statistics.finished) == (4, 2, 2)


async def test_the_connection_is_free_while_the_work_goes_on(world: World) -> None:
    @world.app.post("/")
    async def accept(background: stormproof.BackgroundTasks) -> None:
        background.add_task(world.wait, "slow")

    async with served(world.app) as port, await Connection.open(port) as connection:
        for _ in range(3):
            assert (await connection.request("POST", "/")).status == 200
        assert world.lifecycle.requests == set()
        assert (world.notes, world.tasks.statistics().running) == ([], 3)
        world.go.set()
        await world.all_done()
    assert world.notes == ["slow"] * 3


@pytest.mark.parametrize("failure", ["HTTPException", "another", "422", "answer"])
async def test_nothing_runs_when_the_request_fails(world: World, failure: str) -> None:
    async def check(background: stormproof.BackgroundTasks) -> None:
        background.add_task(world.work, "of the dependency")

    @world.app.post("/", dependencies=[Depends(check)])
    async def accept(n: int, background: stormproof.BackgroundTasks) -> int:
        background.add_task(world.work, "of the endpoint")
        if failure == "HTTPException":
            raise HTTPException(409)
        if failure == "another":
            raise stormproof.errors.LimitExceeded("limit 'x' is full")
        return "not a number"  # type: ignore[return-value]

    caplog_off = logging.getLogger("uvicorn.error")
    caplog_off.disabled = True  # its traceback of the 500 is the test's own doing
    try:
        async with served(world.app) as port:
            path = "/?n=x" if failure == "422" else "/?n=1"
            assert (await request(port, "POST", path)).status in (409, 503, 422, 500)
            assert world.tasks.statistics().accepted == 0
            assert world.tasks._roll._promised == 0
    finally:
        caplog_off.disabled = False
    assert world.notes == []


@pytest.mark.parametrize("first", ["session", "background"])
async def test_the_commit_comes_first_wherever_the_session_stands(
    world: World, first: str, tmp_path: Path
) -> None:
    """Also before a dependency that is ended after the response, as FastAPI's default is."""

    async def unit_of_work() -> AsyncIterator[None]:
        yield
        world.notes.append("commit")

    async def slow_end() -> AsyncIterator[None]:
        yield
        world.notes.append("end of request")

    Unit = Annotated[None, Depends(unit_of_work, scope="function")]
    Slow = Annotated[None, Depends(slow_end)]

    if first == "session":

        @world.app.post("/")
        async def accept(unit: Unit, background: stormproof.BackgroundTasks, slow: Slow) -> None:
            background.add_task(world.work, "work")
    else:

        @world.app.post("/")
        async def accept(slow: Slow, background: stormproof.BackgroundTasks, unit: Unit) -> None:
            background.add_task(world.work, "work")

    async with served(world.app) as port:
        assert (await request(port, "POST", "/")).status == 200
        await world.all_done()
    assert world.notes == ["commit", "end of request", "work"]


@pytest.mark.parametrize("first", ["session", "background"])
async def test_a_commit_that_fails_means_that_nothing_runs(world: World, first: str) -> None:
    async def unit_of_work() -> AsyncIterator[None]:
        yield
        raise stormproof.errors.CommitFailed("the database refused the COMMIT")

    Unit = Annotated[None, Depends(unit_of_work, scope="function")]
    if first == "session":

        @world.app.post("/")
        async def accept(unit: Unit, background: stormproof.BackgroundTasks) -> None:
            background.add_task(world.work, "work")
    else:

        @world.app.post("/")
        async def accept(background: stormproof.BackgroundTasks, unit: Unit) -> None:
            background.add_task(world.work, "work")

    async with served(world.app) as port:
        assert (await request(port, "POST", "/")).status == 500
    assert world.notes == []
    assert world.tasks._roll._promised == 0


async def test_it_runs_after_the_response_was_sent(world: World) -> None:
    """A file that is removed in the background is still there while it is sent."""

    @world.app.get("/file")
    async def file(background: stormproof.BackgroundTasks) -> Response:
        number, path = tempfile.mkstemp()
        os.write(number, b"x" * 1_000_000)
        os.close(number)
        background.add_task(os.unlink, path)
        background.add_task(world.work, path)
        return FileResponse(path)

    async with served(world.app) as port:
        answer = await request(port, "GET", "/file")
        assert (answer.status, len(answer.body)) == (200, 1_000_000)
        await world.all_done()
    assert not Path(world.notes[0]).exists()


async def test_it_runs_also_when_the_client_leaves_in_the_middle_of_the_body(world: World) -> None:
    """What was committed is committed; Starlette drops the work here."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0.001)

    @world.app.get("/")
    async def stream(background: stormproof.BackgroundTasks) -> Response:
        background.add_task(world.work, "work")
        return StreamingResponse(endless())

    async with served(world.app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"xxx")
        assert world.notes == []
        writer.close()
        await writer.wait_closed()
        await until(lambda: world.notes == ["work"])


async def test_a_returned_response_drops_nothing(world: World) -> None:
    @world.app.post("/own")
    async def own(background: stormproof.BackgroundTasks) -> Response:
        background.add_task(world.work, "injected")
        return JSONResponse({}, background=BackgroundTask(world.work, "of the response"))

    @world.app.post("/same")
    async def same(background: stormproof.BackgroundTasks) -> Response:
        background.add_task(world.work, "once")
        return JSONResponse({}, background=background)

    async with served(world.app) as port:
        assert (await request(port, "POST", "/own")).status == 200
        await until(lambda: sorted(world.notes) == ["injected", "of the response"])
        assert (await request(port, "POST", "/same")).status == 200
        await world.all_done()
    assert world.notes[2:] == ["once"]


async def test_a_def_endpoint_promises_from_its_thread(world: World) -> None:
    @world.app.post("/")
    def accept(background: stormproof.BackgroundTasks) -> None:
        background.add_task(world.work, "work")

    async with served(world.app) as port:
        assert (await request(port, "POST", "/")).status == 200
        await world.all_done()
    assert world.notes == ["work"]


async def test_what_is_beyond_the_bound_is_refused_before_the_answer() -> None:
    world = World(max_running=1)

    @world.app.post("/")
    async def accept(background: stormproof.BackgroundTasks) -> None:
        background.add_task(world.wait, "work")

    async with served(world.app) as port:
        assert (await request(port, "POST", "/")).status == 200
        refused = await request(port, "POST", "/")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        world.go.set()
        await world.all_done()
        assert (await request(port, "POST", "/")).status == 200
        await world.all_done()
    assert world.notes == ["work", "work"]


async def test_another_supervisor_or_options_can_be_named(world: World) -> None:
    taken: list[str] = []
    urgent = world.tasks.options(name="urgent", timeout=30)

    @world.app.post("/")
    async def accept(
        background: Annotated[stormproof.BackgroundTasks, stormproof.background(urgent)],
    ) -> None:
        background.add_task(world.wait, "work")

    async with served(world.app) as port:
        assert (await request(port, "POST", "/")).status == 200
        taken += [handle.name for handle in world.tasks._running.values()]
        world.go.set()
        await world.all_done()
    assert taken == ["urgent"]


def test_without_a_supervisor_the_request_fails_and_says_what_to_do() -> None:
    app = FastAPI()
    stormproof.install(app)

    @app.post("/")
    async def accept(background: stormproof.BackgroundTasks) -> None: ...

    with TestClient(app) as client:
        answer = client.post("/")
    assert (answer.status_code, answer.json()["code"]) == (500, "SP106")
    assert "install(app, stormproof.Tasks())" in answer.json()["detail"]


async def test_the_session_of_the_request_does_not_come_along(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its unit of work is over: used in the task it says so, and takes no connection."""
    app, tasks = FastAPI(), stormproof.Tasks()
    database = stormproof.Database(f"sqlite+aiosqlite:///{tmp_path}/test.db")
    stormproof.install(app, database, tasks, prestop=0.0)
    errors: list[BaseException] = []

    async def use(session: AsyncSession) -> None:
        try:
            await session.execute(text("SELECT 1"))
        except SessionClosed as error:
            errors.append(error)
            raise

    Session = Annotated[AsyncSession, stormproof.session(database)]

    @app.post("/")
    async def accept(session: Session, background: stormproof.BackgroundTasks) -> None:
        await session.execute(text("SELECT 1"))
        background.add_task(use, session)

    async with served(app) as port:
        assert (await request(port, "POST", "/")).status == 200
        await until(lambda: tasks.statistics().failed == 1)
        assert database.statistics().in_use == 0
    assert [type(error) for error in errors] == [SessionClosed]
    assert len([record for record in caplog.records if record.levelno > 30]) == 1


async def test_work_that_a_drain_finds_is_finished_and_a_request_in_flight_can_still_promise(
    world: World,
) -> None:
    @world.app.post("/")
    async def accept(background: stormproof.BackgroundTasks) -> None:
        background.add_task(world.work, "before")
        await world.go.wait()
        background.add_task(world.work, "after")

    async with served(world.app) as port:
        slow = asyncio.create_task(request(port, "POST", "/"))
        await until(lambda: len(world.lifecycle.requests) == 1)
        asyncio.get_running_loop().call_later(0.05, world.go.set)
    assert (await slow).status == 200
    assert world.notes == ["before", "after"]
    assert world.lifecycle.losses == []
