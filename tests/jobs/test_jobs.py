"""What jobs promise, in memory, on SQLite and by both PostgreSQL drivers."""

import asyncio
import time
from contextlib import suppress

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from stormproof import errors
from stormproof.database import Database
from stormproof.jobs import Job, Jobs, current_job
from tests.harness import until

from .work import Log, Open, stands

in_memory_too = pytest.mark.parametrize("url", ["memory", "sqlite", "postgres"], indirect=True)
on_all = pytest.mark.parametrize("url", ["sqlite", "postgres", "psycopg"], indirect=True)


@on_all
async def test_committed_means_enqueued_and_rolled_back_means_not(
    jobs: Jobs, database: Database
) -> None:
    done: list[str] = []

    @jobs.task()
    async def note(word: str) -> None:
        done.append(word)

    await jobs.open()
    with suppress(LookupError):
        async with database.session() as session:
            await note.enqueue(session, "rolled back")
            raise LookupError
    async with database.session() as session:
        with suppress(LookupError):
            async with session.begin_nested():
                await note.enqueue(session, "in a savepoint that was undone")
                raise LookupError
        handle = await note.enqueue(session, word="committed")
        await asyncio.sleep(0.05)
        assert done == []  # not before the COMMIT
    await stands(jobs, handle.id, "done")
    assert done == ["committed"]
    await until(lambda: jobs.statistics().done == 1)  # the store knows a moment before


@in_memory_too
async def test_a_session_of_sqlalchemy_alone_will_do(jobs: Jobs, database: Database) -> None:
    done = asyncio.Event()

    @jobs.task()
    async def note() -> None:
        done.set()

    await jobs.open()
    async with AsyncSession(database.engine) as session, session.begin():
        await note.enqueue(session)
    async with asyncio.timeout(2):
        await done.wait()


@in_memory_too
async def test_a_job_that_fails_is_retried_then_held_with_its_words(
    jobs: Jobs, database: Database
) -> None:
    starts: list[int] = []
    is_healed = False

    @jobs.task(retries=2, backoff=0.01)
    async def fragile(job: Job) -> None:
        starts.append(job.start)
        if not is_healed:
            raise LookupError("no such page")

    await jobs.open()
    async with database.session() as session:
        handle = await fragile.enqueue(session)
    await stands(jobs, handle.id, "held")
    (held,) = await jobs.held()
    assert (held.id, held.task, held.starts) == (handle.id, "fragile", 3)
    assert "LookupError: no such page" in held.last_words
    assert starts == [1, 2, 3]
    is_healed = True
    assert await jobs.retry(held.id) == 1
    await stands(jobs, handle.id, "done")
    assert starts == [1, 2, 3, 1]
    assert await jobs.held() == []


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_a_job_that_raises_no_exception_but_ends_fails_like_any_other(
    jobs: Jobs, database: Database
) -> None:
    """The engine deletes what is cancelled, and forgets what raises another BaseException."""

    @jobs.task(retries=1, backoff=0.01)
    async def cancels_itself() -> None:
        raise asyncio.CancelledError

    @jobs.task(retries=1, backoff=0.01)
    async def raises_a_group() -> None:
        raise BaseExceptionGroup("both", [GeneratorExit(), ValueError()])

    await jobs.open()
    async with database.session() as session:
        handles = [await task.enqueue(session) for task in (cancels_itself, raises_a_group)]
    for handle in handles:
        await stands(jobs, handle.id, "held")
    words = {held.task: held.last_words for held in await jobs.held()}
    assert "it ended by itself with CancelledError()" in words["cancels_itself"]
    assert "it ended by itself with BaseExceptionGroup" in words["raises_a_group"]
    assert jobs.statistics().retried == 2


@in_memory_too
async def test_on_failure_delete_leaves_the_words_in_the_log_alone(
    jobs: Jobs, database: Database
) -> None:
    @jobs.task(retries=0, on_failure="delete")
    async def fragile() -> None:
        raise LookupError

    await jobs.open()
    async with database.session() as session:
        handle = await fragile.enqueue(session)
    await stands(jobs, handle.id, "failed")
    assert await jobs.held() == []


@in_memory_too
async def test_a_timeout_ends_the_job_and_is_its_deadline(jobs: Jobs, database: Database) -> None:
    left: list[float | None] = []

    @jobs.task(retries=0, timeout=0.05)
    async def slow(job: Job) -> None:
        left.append(job.remaining())
        await asyncio.sleep(60)

    await jobs.open()
    async with database.session() as session:
        handle = await slow.enqueue(session)
    await stands(jobs, handle.id, "held")
    (held,) = await jobs.held()
    assert "SP904" in held.last_words
    assert left[0] is not None
    assert 0 < left[0] <= 0.05


@on_all
async def test_a_key_is_unique_while_its_job_waits_or_runs(jobs: Jobs, database: Database) -> None:
    may_end = asyncio.Event()

    @jobs.task()
    async def note(word: str) -> None:
        await may_end.wait()

    await jobs.open()
    async with database.session() as session:
        first = await note.enqueue(session, "a", key="order:1")
        again = await note.enqueue(session, "b", key="order:1")
        other = await note.enqueue(session, "c", key="order:2")
    assert (again.id, again.is_new) == (first.id, False)
    assert other.is_new
    await stands(jobs, first.id, "running")
    async with database.session() as session:
        assert not (await note.enqueue(session, "d", key="order:1")).is_new
    may_end.set()
    await stands(jobs, first.id, "done")
    async with database.session() as session:
        assert (await note.enqueue(session, "e", key="order:1")).is_new


@in_memory_too
async def test_priority_and_delay_order_the_starts(opened: Open, database: Database) -> None:
    jobs = opened.new(concurrency=1)
    log: list[str] = []
    started_at: dict[str, float] = {}

    @jobs.task()
    async def note(word: str) -> None:
        log.append(word)
        started_at[word] = time.monotonic()

    async with opened(jobs):
        asked_at = time.monotonic()
        async with database.session() as session:
            await note.enqueue(session, "late", delay=0.3, priority=9)
            await note.enqueue(session, "low")
            await note.enqueue_many(session, [{"word": "b"}, {"word": "c"}], priority=1)
            await note.enqueue(session, "high", priority=2)
        await until(lambda: len(log) == 5, 20.0)
    assert [word for word in log if word != "late"] == ["high", "b", "c", "low"]
    assert started_at["late"] >= asked_at + 0.25


@in_memory_too
async def test_arguments_that_no_longer_fit_are_held_and_said(
    opened: Open, database: Database
) -> None:
    old, new = opened.new(worker=False), opened.new()

    @old.task(name="send")
    async def old_send(address: str) -> None: ...

    @new.task(name="send")
    async def new_send(address: str, amount: int) -> None: ...

    async with opened(old), database.session() as session:
        with pytest.raises(errors.InvalidArguments, match="SP902"):
            await old_send.enqueue(session, "a@b", 3)
        handle = await old_send.enqueue(session, "a@b")
    async with opened(new):
        await stands(new, handle.id, "held")
        (held,) = await new.held()
        assert held.starts == 1
        assert "'send' do not fit its function any more: amount: Field required" in held.last_words


@on_all
async def test_cancelled_jobs_end_wherever_they_are(opened: Open, database: Database) -> None:
    jobs, other = opened.new(stale_after=2.0), opened.new(worker=False)
    was_cut = asyncio.Event()

    @jobs.task()
    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            was_cut.set()

    async with opened(jobs), opened(other):
        async with database.session() as session:
            running = await endless.enqueue(session)
            waiting = await endless.enqueue(session, delay=60)
        await stands(jobs, running.id, "running")
        assert running.id is not None
        assert waiting.id is not None
        assert await other.cancel(running.id, waiting.id, 10_000) == 2
        async with asyncio.timeout(3):
            await was_cut.wait()
        assert await jobs.status(running.id) == await jobs.status(waiting.id) == "cancelled"
        await until(lambda: jobs.statistics().running == 0)
        assert jobs.statistics().lost_leases == 0


@in_memory_too
async def test_a_limit_of_a_task_holds_over_all_workers(opened: Open, database: Database) -> None:
    workers = [opened.new(), opened.new()]
    running = most = ended = 0

    async def work() -> None:
        nonlocal running, most, ended
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        ended += 1

    tasks = [jobs.task(concurrency=2)(work) for jobs in workers]
    async with opened(workers[0]), opened(workers[1]):
        async with database.session() as session:
            await tasks[0].enqueue_many(session, [{}] * 20)
        await until(lambda: ended == 20, 30.0)
    assert most == 2


@in_memory_too
async def test_a_limit_of_each_group_holds_over_all_workers(
    opened: Open, database: Database
) -> None:
    workers = [opened.new(), opened.new()]
    running: dict[str, int] = {}
    most: dict[str, int] = {}
    ended = together = 0

    async def work(tenant: str) -> None:
        nonlocal ended, together
        running[tenant] = running.get(tenant, 0) + 1
        most[tenant] = max(most.get(tenant, 0), running[tenant])
        together = max(together, sum(running.values()))
        await asyncio.sleep(0.02)
        running[tenant] -= 1
        ended += 1

    tasks = [jobs.task(per_group=1)(work) for jobs in workers]
    async with opened(workers[0]), opened(workers[1]):
        async with database.session() as session:
            for _ in range(5):
                for tenant in ("a", "b", "c"):
                    await tasks[0].enqueue(session, tenant, group=tenant)
        await until(lambda: ended == 15, 30.0)
        handle_task = (await workers[0].overview())["tasks"]
        assert set(handle_task) <= {"work"}
    assert most == {"a": 1, "b": 1, "c": 1}
    assert together > 1


@on_all
async def test_once_makes_the_effect_and_the_end_one_commit(jobs: Jobs, database: Database) -> None:
    async with database.session() as session:
        await session.execute(text("CREATE TABLE paid (job BIGINT)"))
    starts: list[int] = []

    @jobs.task(retries=3, backoff=0.01)
    async def pay(job: Job) -> None:
        starts.append(job.start)
        async with database.session() as session:
            async with job.once(session):
                await session.execute(text("INSERT INTO paid VALUES (:id)"), {"id": job.id})
            if len(starts) == 1:
                raise LookupError  # before the COMMIT: nothing has happened
        raise LookupError  # after it: the job is done, and is not done again

    await jobs.open()
    async with database.session() as session:
        handle = await pay.enqueue(session)
    await stands(jobs, handle.id, "done")
    async with database.read_session() as session:
        assert await session.scalar(text("SELECT count(*) FROM paid")) == 1
    assert starts == [1, 2]
    assert current_job.__doc__
    with pytest.raises(errors.NotStarted):
        current_job()


@in_memory_too
async def test_an_end_counts_only_while_the_job_is_ours(opened: Open, database: Database) -> None:
    """The first worker is taken for dead while it runs; its late end must change nothing."""
    slow, quick = opened.new(concurrency=1), opened.new()
    may_end, log = asyncio.Event(), Log()

    @slow.task(name="work")
    async def slow_work(job: Job) -> None:
        log.add(job, "slow")
        while not may_end.is_set():  # deaf to the cancellation that follows the loss
            with suppress(asyncio.CancelledError):
                await may_end.wait()
        async with database.session() as session, job.once(session):
            log.add(job, "never")

    @quick.task(name="work")
    async def quick_work(job: Job) -> None:
        log.add(job, "quick")

    async with opened(slow):
        async with database.session() as session:
            handle = await slow_work.enqueue(session)
        await stands(slow, handle.id, "running")
        store = slow._opened()
        await store.reap(str(store.leases.worker), "null")
        async with opened(quick):
            await stands(quick, handle.id, "done")
            may_end.set()
            await until(lambda: slow.statistics().running == 0)
            await until(lambda: slow.statistics().lost_leases == 1)
        assert await slow.status(handle.id or 0) == "done"
    assert log.lines == [(handle.id, 1, "slow"), (handle.id, 2, "quick")]


@in_memory_too
async def test_a_drain_that_is_cut_leaves_its_jobs_to_the_next_worker(
    opened: Open, database: Database
) -> None:
    """A second signal: what ran is reaped when this process is gone, or its heartbeat stale."""
    first, second = opened.new(), opened.new(stale_after=0.4, poll=0.1)
    was_cut = asyncio.Event()

    @first.task(name="work")
    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            was_cut.set()

    @second.task(name="work")
    async def work() -> None: ...

    await first.open()
    async with database.session() as session:
        handle = await endless.enqueue(session)
    await until(lambda: first.statistics().running == 1)
    drain = asyncio.create_task(first.drain(time.monotonic() + 30))
    await asyncio.sleep(0)
    drain.cancel()
    await asyncio.wait([drain])
    await first.close()
    assert was_cut.is_set()
    async with opened(second):
        await stands(second, handle.id, "done")


@in_memory_too
async def test_a_drain_hands_back_what_does_not_end_in_time(
    opened: Open, database: Database
) -> None:
    first, second = opened.new(concurrency=2), opened.new()
    log = Log()

    async def work(job: Job, seconds: float) -> None:
        log.add(job, "begins")
        await asyncio.sleep(seconds if job._store is first._store else 0)
        log.add(job, "ends")

    task = first.task(name="work")(work)
    second.task(name="work")(work)
    async with opened(first):
        async with database.session() as session:
            short = await task.enqueue(session, seconds=0.1)
            long = await task.enqueue(session, seconds=60)
            queued = await task.enqueue(session, seconds=60)
        await until(lambda: first.statistics().running == 2)
        async with opened(second):
            async with asyncio.timeout(10):  # one of them would take a minute
                assert await first.drain(time.monotonic() + 0.6) == []
            for handle in (short, long, queued):
                await stands(second, handle.id, "done")
            assert first.statistics().handed_back >= 1
            assert second.statistics().reaped == 0
    assert (short.id, 1, "ends") in log.lines
    assert (long.id, 1, "ends") in log.lines  # the start that was handed back does not count
