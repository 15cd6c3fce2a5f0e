"""Callbacks after a COMMIT: run when it has succeeded, and only then."""

# ruff: noqa: PT012  # what must raise here is a whole block: a unit of work

import asyncio
from functools import partial

import pytest
from sqlalchemy import event

from stormproof._core import events
from stormproof._core.lifecycle import Lifecycle
from stormproof.database import Database, DatabaseSession
from stormproof.errors import CommitFailed, SessionClosed

from .model import Item, Tag, names


async def test_callbacks_run_in_their_order_when_the_row_is_there(database: Database) -> None:
    seen: list[object] = []

    async def look() -> None:
        seen.append(await names(database))

    async with database.session() as session:
        session.add(Item(name="a"))
        session.on_commit(look)
        session.on_commit(partial(seen.append, "plain"))
        await session.flush()
        assert seen == []
    assert seen == [["a"], "plain"]


async def test_a_commit_in_the_middle_runs_those_before_it_once(database: Database) -> None:
    seen: list[str] = []
    async with database.session() as session:
        session.add(Item(name="a"))
        session.on_commit(partial(seen.append, "first"))
        await session.commit()
        assert seen == ["first"]
        session.on_commit(partial(seen.append, "second"))
    assert seen == ["first", "second"]


@pytest.mark.parametrize("how", ["raises", "rolled back", "refused", "released"])
async def test_no_callback_runs_without_a_commit(database: Database, how: str) -> None:
    seen: list[str] = []

    async def work(session: DatabaseSession) -> None:
        session.on_commit(partial(seen.append, "never"))
        if how == "released":
            await session.release()
        session.add(Item(name="a"))
        await session.flush()
        if how in ("raises", "released"):
            raise KeyError
        if how == "rolled back":
            await session.rollback()
        else:
            session.add(Tag(item_id=99))

    if how == "rolled back":
        async with database.session() as session:
            await work(session)
    else:
        with pytest.raises((KeyError, CommitFailed)):
            async with database.session() as session:
                await work(session)
    assert seen == []


async def test_an_undone_savepoint_takes_its_callbacks_with_it(database: Database) -> None:
    seen: list[str] = []
    async with database.session() as session:
        session.on_commit(partial(seen.append, "outer"))
        with pytest.raises(KeyError):
            async with session.begin_nested():
                session.on_commit(partial(seen.append, "undone"))
                raise KeyError
        async with session.begin_nested():
            session.on_commit(partial(seen.append, "kept"))
    assert seen == ["outer", "kept"]


async def test_a_callback_that_raises_is_told_and_the_others_run(
    database: Database, lifecycle: Lifecycle, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[events.Event] = []
    lifecycle.events.subscribe(told.append)
    seen: list[str] = []

    def explode() -> None:
        raise RuntimeError("no mail today")

    async with database.session() as session:
        session.add(Item(name="a"))
        session.on_commit(explode)
        session.on_commit(partial(seen.append, "ran"))
    assert seen == ["ran"]
    assert [(type(one), getattr(one, "error", "")) for one in told] == [
        (events.CommitCallbackFailed, "no mail today")
    ]
    assert "explode failed; the work is committed" in caplog.text
    assert await names(database) == ["a"]


async def test_callbacks_run_also_when_the_caller_is_cancelled_in_the_commit(
    database: Database,
) -> None:
    seen: list[str] = []

    async def slow() -> None:
        await asyncio.sleep(0.01)
        seen.append("ran")

    async def work() -> None:
        async with database.session() as session:
            session.add(Item(name="a"))
            session.on_commit(slow)
            session.on_commit(lambda: task.cancel())
            session.on_commit(slow)

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["ran", "ran"]
    assert await names(database) == ["a"]


async def test_a_cancelled_commit_that_stored_the_work_still_calls_back(
    database: Database,
) -> None:
    seen: list[str] = []

    async def work() -> None:
        async with database.session() as session:
            session.add(Item(name="a"))
            session.on_commit(partial(seen.append, "ran"))
            await session.flush()

    task = asyncio.create_task(work())
    event.listen(database.engine.sync_engine, "commit", lambda _: task.cancel(), once=True)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await names(database) == ["a"]
    assert seen == ["ran"]


async def test_a_callback_cannot_use_the_session_it_follows(
    database: Database, lifecycle: Lifecycle
) -> None:
    told: list[events.Event] = []
    lifecycle.events.subscribe(told.append)
    async with database.session() as session:
        session.add(Item(name="a"))
        session.on_commit(lambda: session.add(Item(name="lost")))
        session.on_commit(lambda: session.on_commit(print))
    assert [type(one) for one in told] == [events.CommitCallbackFailed] * 2
    assert await names(database) == ["a"]
    with pytest.raises(SessionClosed):
        session.on_commit(print)
