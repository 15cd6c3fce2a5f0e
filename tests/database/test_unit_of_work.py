"""A unit of work is committed when its block ends cleanly, or an error is raised."""

# ruff: noqa: PT012  # what must raise here is a whole block: a unit of work

import asyncio
import time

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from stormproof._core import events
from stormproof._core.deadline import Deadline, in_force
from stormproof._core.lifecycle import Lifecycle
from stormproof.database import Database
from stormproof.errors import (
    CommitFailed,
    ConstraintFailed,
    DeadlineExceeded,
    NotStarted,
    SessionClosed,
    SessionShared,
)

from .model import Item, Tag, count, names, run_slow


def passed() -> Deadline:
    return Deadline(time.monotonic() - 1)


async def test_work_is_stored_when_the_block_ends(database: Database) -> None:
    async with database.session() as session:
        session.add(Item(name="a"))
    assert await names(database) == ["a"]


async def test_objects_stay_readable_after_the_commit(database: Database) -> None:
    async with database.session() as session:
        item = Item(name="a")
        session.add(item)
    assert (item.id, item.name) == (1, "a")


class Refusal(Exception):
    """Stands for an HTTPException."""


@pytest.mark.parametrize("error", [Refusal, asyncio.CancelledError, KeyboardInterrupt])
async def test_nothing_is_stored_when_the_block_raises(
    database: Database, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        async with database.session() as session:
            session.add(Item(name="a"))
            await session.flush()
            raise error
    assert await names(database) == []


async def test_the_connection_is_taken_at_the_first_statement(database: Database) -> None:
    async with database.session() as session:
        assert database.statistics().in_use == 0
        await count(session)
        assert database.statistics().in_use == 1


async def test_an_early_commit_gives_the_connection_back(database: Database) -> None:
    async with database.session() as session:
        session.add(Item(name="a"))
        await session.commit()
        assert database.statistics().in_use == 0
        session.add(Item(name="b"))
    assert await names(database) == ["a", "b"]


async def test_a_savepoint_is_undone_alone(database: Database) -> None:
    async with database.session() as session:
        session.add(Item(name="a"))
        with pytest.raises(IntegrityError):
            async with session.begin_nested():
                session.add(Item(name="a"))
        session.add(Item(name="b"))
    assert await names(database) == ["a", "b"]


async def test_a_refused_statement_keeps_its_own_error(database: Database) -> None:
    async with database.session() as session:
        session.add(Item(name="a"))
    with pytest.raises(IntegrityError):
        async with database.session() as session:
            session.add(Item(name="a"))


async def test_a_constraint_that_fails_at_the_commit_is_an_error(
    database: Database, lifecycle: Lifecycle
) -> None:
    seen: list[events.Event] = []
    lifecycle.events.subscribe(seen.append)
    with pytest.raises(ConstraintFailed) as caught:
        async with database.session() as session:
            session.add(Item(name="a"))
            session.add(Tag(item_id=99))
            await session.flush()
    assert "nothing of this unit of work is stored" in str(caught.value)
    assert caught.value.status == 409
    assert isinstance(caught.value.__cause__, IntegrityError)
    assert [type(one) for one in seen] == [events.CommitFailed]
    assert await names(database) == []


async def test_nothing_is_committed_after_the_deadline(database: Database) -> None:
    deadline = Deadline(time.monotonic() + 60)
    with in_force(deadline), pytest.raises(DeadlineExceeded):
        async with database.session() as session:
            session.add(Item(name="a"))
            await session.flush()
            deadline.shorten(time.monotonic())
    assert await names(database) == []


async def test_no_statement_begins_after_the_deadline(database: Database) -> None:
    with pytest.raises(DeadlineExceeded), in_force(passed()):
        async with database.session() as session:
            await count(session)


async def test_an_ended_session_cannot_be_used_and_takes_no_connection(
    database: Database,
) -> None:
    async with database.session() as session:
        await count(session)
    uses = (
        lambda: session.execute(text("SELECT 1")),
        lambda: session.scalars(select(Item)),
        lambda: session.stream(select(Item)),
        lambda: session.get(Item, 1),
        lambda: session.connection(),
        lambda: session.run_sync(lambda sync: sync.execute(text("SELECT 1"))),
        lambda: session.commit(),
        lambda: session.rollback(),
        lambda: session.flush(),
    )
    for use in uses:
        with pytest.raises(SessionClosed, match="a session of its own"):
            await use()
    with pytest.raises(SessionClosed):
        session.add(Item(name="lost"))
    with pytest.raises(SessionClosed):
        session.add_all([Item(name="lost")])
    assert database.statistics().in_use == 0


@pytest.mark.parametrize("pool", ["cold", "warm"])
async def test_two_tasks_at_once_on_one_session_are_refused(url: str, pool: str) -> None:
    database = Database(url)
    async with database:
        if pool == "cold":
            await database.engine.dispose()
        with pytest.raises(SessionShared, match="give each task its own session"):
            async with database.session() as session:
                if pool == "warm":
                    await session.execute(text("SELECT 1"))
                await asyncio.gather(*(session.execute(text("SELECT 1")) for _ in range(2)))
        assert database.statistics().in_use == 0


async def test_tasks_one_after_another_may_use_one_session(database: Database) -> None:
    async with database.session() as session:
        assert await asyncio.create_task(count(session)) == 0
        assert await asyncio.create_task(count(session)) == 0


async def test_a_statement_left_running_is_cut_when_the_block_ends(database: Database) -> None:
    async def forgotten() -> None:
        await run_slow(session, database)

    began_at = time.monotonic()
    with pytest.raises(SessionShared):
        async with database.session() as session:
            await count(session)
            task = asyncio.create_task(forgotten())
            await asyncio.sleep(0)
    with pytest.raises(SessionClosed):
        await task
    assert time.monotonic() - began_at < 3


async def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(DBAPIError, match=r"(?i)read-?\s?only"):
        async with database.read_session() as session:
            session.add(Item(name="a"))
    async with database.session() as session:
        session.add(Item(name="b"))
    assert await names(database) == ["b"]


# PostgreSQL reads committed rows at each statement.
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_a_reader_sees_one_snapshot_beside_a_writer_on_sqlite(database: Database) -> None:
    async with database.read_session() as reader:
        assert await count(reader) == 0
        async with database.session() as writer:
            writer.add(Item(name="a"))
        assert await count(reader) == 0


async def test_read_then_write_loses_no_update(url: str) -> None:
    async def increment() -> None:
        async with database.session() as session:
            statement = select(Item).where(Item.id == 1)
            item = (await session.scalars(statement.with_for_update())).one()
            item.name = str(int(item.name) + 1)

    database = Database(url, pool_size=5, max_overflow=0, max_wait=10)
    async with database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Item.metadata.create_all)
        async with database.session() as session:
            session.add(Item(id=1, name="0"))
        await asyncio.gather(*(increment() for _ in range(30)))
        assert await names(database) == ["30"]


async def test_a_block_that_swallows_a_cut_statement_cannot_commit(database: Database) -> None:
    with pytest.raises(CommitFailed, match="failed or was cut"):
        async with database.session() as session:
            session.add(Item(name="a"))
            await session.flush()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await run_slow(session, database)
    assert await names(database) == []


async def test_the_commit_runs_to_its_end_when_cancelled(database: Database) -> None:
    async def work() -> None:
        async with database.session() as session:
            session.add(Item(name="a"))
            await session.flush()

    task = asyncio.create_task(work())
    event.listen(database.engine.sync_engine, "commit", lambda _: task.cancel(), once=True)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await names(database) == ["a"]


async def test_a_closed_database_says_so(url: str) -> None:
    database = Database(url)
    with pytest.raises(NotStarted, match="is not open"):
        async with database.session():
            pass
    async with database:
        pass
    with pytest.raises(NotStarted):
        async with database.read_session():
            pass


async def test_a_commit_that_raised_is_not_committed_by_the_next_user(
    database: Database,
) -> None:
    def explode(_: object) -> None:
        raise RuntimeError("no commit today")

    event.listen(database.engine.sync_engine, "commit", explode, once=True)
    with pytest.raises(CommitFailed):
        async with database.session() as session:
            session.add(Item(name="a"))
    assert await names(database) == []


async def test_a_begin_block_commits_or_raises_like_the_unit_itself(database: Database) -> None:
    async with database.session() as session:
        async with session.begin():
            session.add(Item(name="a"))
        assert database.statistics().in_use == 0
        with pytest.raises(Refusal):
            async with session.begin():
                session.add(Item(name="b"))
                await session.flush()
                raise Refusal
    with pytest.raises(CommitFailed):
        async with database.session() as session, session.begin():
            session.add(Tag(item_id=99))
    assert await names(database) == ["a"]


async def test_savepoints_in_two_tasks_at_once_are_refused(database: Database) -> None:
    async def nested() -> None:
        async with session.begin_nested():
            await session.execute(text("SELECT 1"))

    with pytest.raises(SessionShared):
        async with database.session() as session:
            await asyncio.gather(nested(), nested())


async def test_a_commit_begun_in_time_is_not_reported_as_late(database: Database) -> None:
    deadline = Deadline(time.monotonic() + 60)
    event.listen(
        database.engine.sync_engine,
        "commit",
        lambda _: deadline.shorten(time.monotonic()),
        once=True,
    )
    with in_force(deadline):
        async with database.session() as session:
            session.add(Item(name="a"))
    assert await names(database) == ["a"]
