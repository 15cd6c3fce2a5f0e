"""Forwarding: what is committed is published at least once, each time under the same id."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

import pytest
from celery import Celery
from opentelemetry import trace
from pydantic import BaseModel
from taskiq import Context, InMemoryBroker, TaskiqDepends

from stormproof.database import Database
from stormproof.errors import InvalidArguments, InvalidSetting
from stormproof.jobs import Jobs, _trace
from tests.harness import until
from tests.harness.process import ServerProcess

from .brokers import BROKERS, Wire
from .forwarder import declare
from .work import stands

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def url(tmp_path: Any) -> str:
    return f"sqlite:///{tmp_path}/test.db"  # how jobs are kept is tested elsewhere


@pytest.fixture(params=BROKERS)
async def wire(request: pytest.FixtureRequest) -> AsyncIterator[Wire]:
    async with BROKERS[request.param]() as wire:
        yield wire


async def test_what_is_committed_arrives_once_the_broker_is_back(
    jobs: Jobs, database: Database, wire: Wire
) -> None:
    ship = jobs.forward(to=wire.to, name="ship", backoff=0.01, max_backoff=0.02)
    await jobs.open()
    wire.is_away = True
    requested = trace.get_current_span(_trace._W3C.extract({"traceparent": TRACE}))
    with suppress(LookupError):
        async with database.session() as session:
            await ship.enqueue(session, 1)
            raise LookupError
    with trace.use_span(requested):
        async with database.session() as session:
            handles = [await ship.enqueue(session, order) for order in (2, 3)]
    await until(lambda: wire.tries >= 6)
    assert wire.received == []
    wire.is_away = False
    for handle in handles:
        await stands(jobs, handle.id, "done")
    assert sorted(message.order for message in wire.received) == [2, 3]
    first, second = wire.received
    assert first.id != second.id
    for message in (first, second):
        assert message.header == message.id
        assert message.id.startswith("ship:")
        assert message.trace == TRACE


async def test_a_confirmation_that_is_lost_repeats_the_message_with_its_id(
    jobs: Jobs, database: Database, wire: Wire
) -> None:
    ship = jobs.forward(to=wire.to, name="ship", retries=1, backoff=0.01)
    await jobs.open()
    wire.is_deaf = True
    async with database.session() as session:
        handle = await ship.enqueue(session, 7)
    await stands(jobs, handle.id, "held")
    (held,) = await jobs.held()
    assert "SP910" in held.last_words
    assert "it is tried again with the same id" in held.last_words
    wire.is_deaf = False
    await jobs.retry(held.id)
    await stands(jobs, handle.id, "done")
    assert [message.order for message in wire.received] == [7, 7, 7]
    assert len({message.id for message in wire.received}) == 1


async def test_a_celery_broker_that_never_answers_blocks_neither_loop_nor_other_jobs(
    jobs: Jobs, database: Database
) -> None:
    may_answer, calls = threading.Event(), []

    class Signature:
        task = "ship"

        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> None:
            calls.append(options["task_id"])
            if len(calls) == 1:
                may_answer.wait()

    def takes(order: int) -> None: ...

    ship = jobs.forward(to=Signature(), like=takes, name="ship", timeout=0.05, backoff=0.01)
    await jobs.open()
    async with database.session() as session:
        handle = await ship.enqueue(session, 7)
    await stands(jobs, handle.id, "done")
    may_answer.set()
    assert len(calls) == 2
    assert len(set(calls)) == 1
    await until(lambda: all(t.name != "jobs publisher" for t in threading.enumerate()))


async def test_arguments_are_checked_when_they_are_enqueued(jobs: Jobs, database: Database) -> None:
    """By the function of the other side; what that side injects, and `self`, is not asked for."""

    class Order(BaseModel):
        id: int

    got: list[Any] = []
    broker, app = InMemoryBroker(), Celery("test", set_as_current=False)

    @broker.task(task_name="by_taskiq")
    async def by_taskiq(order: Order, context: Annotated[Context, TaskiqDepends()]) -> None:
        got.append((context.message.task_id, order))

    @app.task(name="by_celery", bind=True)
    def by_celery(self: Any, order, times: int = 1) -> None:  # type: ignore[no-untyped-def]
        got.append((self.request.id, order, times))

    app.conf.task_always_eager = True
    tasks = [jobs.forward(to=by_taskiq), jobs.forward(to=by_celery)]
    await jobs.open()
    async with database.session() as session:
        for task in tasks:
            with pytest.raises(InvalidArguments):
                await task.enqueue(session, order=Order(id=1), colour="red")
        first = await tasks[0].enqueue(session, Order(id=1))
        second = await tasks[1].enqueue(session, order={"id": 2}, times=3)
    for handle in (first, second):
        await stands(jobs, handle.id, "done")
    (one_id, order), (two_id, *rest) = sorted(got, key=len)
    assert (order, rest) == (Order(id=1), [{"id": 2}, 3])
    assert one_id.startswith("by_taskiq:")
    assert two_id.startswith("by_celery:")


def test_what_cannot_be_forwarded_to_is_said_at_once(jobs: Jobs) -> None:
    class Publisher:
        def __call__(self, function: Any) -> Any: ...

        async def publish(self, message: Any, **options: Any) -> None: ...

    def two(first: int, second: int) -> None: ...

    app = Celery("test", set_as_current=False)
    with pytest.raises(InvalidSetting, match="must be a taskiq task"):
        jobs.forward(to=object(), name="x")  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="needs name="):
        jobs.forward(to=Publisher())
    with pytest.raises(InvalidSetting, match="must have one parameter"):
        jobs.forward(to=Publisher(), like=two)
    with pytest.raises(InvalidSetting, match=r"'elsewhere'.*give like="):
        jobs.forward(to=app.signature("elsewhere"))
    assert asyncio.iscoroutinefunction(jobs.forward(to=app.signature("a"), like=two).function)


async def test_an_async_function_of_message_and_id_will_do(jobs: Jobs, database: Database) -> None:
    got: list[Any] = []

    async def publish(message: dict[str, int], message_id: str) -> None:
        got.append((message, message_id))
        if len(got) == 1:
            raise ConnectionError

    tell = jobs.forward(to=publish, name="tell", backoff=0.01)
    await jobs.open()
    async with database.session() as session:
        handle = await tell.enqueue(session, {"order": 8})
    await stands(jobs, handle.id, "done")
    assert got[0] == got[1]
    assert got[0][0] == {"order": 8}


async def test_pauses_of_very_many_retries_are_numbers(jobs: Jobs) -> None:
    task = jobs.forward(to=Celery("x", set_as_current=False).signature("a"), like=lambda: None)
    assert task.pause(5000, 1.0) == 60.0


@pytest.mark.storm  # two processes
async def test_killed_between_publishing_and_its_end_it_publishes_the_same_id_again(
    database: Database, url: str, tmp_path: Any
) -> None:
    enqueuer = Jobs(database, worker=False)
    ship = declare(enqueuer, tmp_path / "mark")
    command = [sys.executable, "-m", "tests.jobs.forwarder", url, str(tmp_path / "mark")]
    published = []
    async with enqueuer:
        async with database.session() as session:
            handle = await ship.enqueue(session, 7)
        for _ in (1, 2):
            async with ServerProcess(command) as process:
                line = await process.wait_for_line("published (ship:.*)")
                published.append(line[1])
                if len(published) == 1:
                    await process.wait_exit()
                else:
                    await stands(enqueuer, handle.id, "done")
    assert published[0] == published[1]
