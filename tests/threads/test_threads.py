"""Threads: a bounded number, and each place is held until its thread really ends."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import stormproof
from stormproof._core.clock import MONOTONIC
from stormproof._core.lifecycle import Lifecycle
from stormproof.deadline import deadline
from stormproof.errors import DeadlineExceeded, InvalidSetting, ThreadsClosed, ThreadsFull
from stormproof.testing import HandClock
from stormproof.threads import Threads
from tests.harness import until


class Gate:
    """Blocking work that ends when it is let go."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.begun = 0
        self.ended = 0

    def block(self) -> str:
        self.begun += 1
        assert self.opened.wait(30)
        self.ended += 1
        return "done"


@asynccontextmanager
async def filled(pool: Threads, count: int) -> AsyncIterator[tuple[Gate, list[asyncio.Task[str]]]]:
    """Let `count` threads block until the end of the block; none of them is left after it."""
    gate = Gate()
    tasks = [asyncio.create_task(pool.run(gate.block)) for _ in range(count)]
    try:
        await until(lambda: gate.begun == count)
        yield gate, tasks
    finally:
        gate.opened.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: pool.statistics().in_use == 0)
        pool._workers.dismiss()  # the leak guard need not wait for them


async def test_it_returns_what_the_function_returns_and_raises_what_it_raises() -> None:
    pool = Threads(2)

    def divide(a: int, *, by: int) -> float:
        assert threading.current_thread() is not threading.main_thread()
        return a / by

    assert await pool.run(divide, 6, by=3) == 2.0
    with pytest.raises(ZeroDivisionError):
        await pool.run(divide, 1, by=0)
    await until(lambda: pool.statistics().in_use == 0)
    assert pool.statistics().started == 2


async def test_the_thread_sees_the_context_of_its_caller_and_cannot_change_it() -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")

    def look_and_set() -> str:
        seen = tenant.get()
        tenant.set("changed")
        return seen

    tenant.set("acme")
    assert await Threads(1).run(look_and_set) == "acme"
    assert tenant.get() == "acme"


async def test_there_are_never_more_threads_than_places() -> None:
    pool = Threads(3, max_wait=30, max_queue=100)
    lock, inside, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        with lock:
            inside -= 1

    await asyncio.gather(*(pool.run(work) for _ in range(60)))
    assert most <= 3
    await until(lambda: pool.statistics().in_use == 0)


async def test_threads_are_used_again_and_end_with_their_pool() -> None:
    """One call after another has one thread, and as many at once never more than places."""
    pool, before = Threads(3, max_wait=30, max_queue=100), threading.active_count()
    first = await pool.run(threading.get_ident)
    assert {await pool.run(threading.get_ident) for _ in range(50)} == {first}
    for _ in range(20):
        await asyncio.gather(*(pool.run(threading.get_ident) for _ in range(30)))
        assert threading.active_count() - before <= 3
    await pool.close()
    await until(lambda: threading.active_count() == before)


async def test_retry_after_is_how_long_the_queue_takes() -> None:
    clock = HandClock()
    pool = Threads(2, max_queue=3, max_wait=30, clock=clock)
    for _ in range(2):
        async with filled(pool, 2):  # these take 6 s
            clock.turn(6.0)
    assert pool.statistics().mean == pytest.approx(6.0)
    async with filled(pool, 2) as (gate, _):
        waiting = [asyncio.create_task(pool.run(gate.block)) for _ in range(3)]
        await until(lambda: pool.statistics().waiting == 3)
        with pytest.raises(ThreadsFull) as refusal:
            await pool.run(gate.block)
        assert refusal.value.retry_after == pytest.approx(4 * 6.0 / 2)
        clock.turn(9.0)  # those inside do not end
        with pytest.raises(ThreadsFull) as refusal:
            await pool.run(gate.block)
        assert refusal.value.retry_after == pytest.approx(4 * 9.0 / 2)
        gate.opened.set()
        await asyncio.gather(*waiting)


async def test_a_full_queue_refuses_on_arrival_with_retry_after() -> None:
    pool = Threads(1, max_queue=1, max_wait=30, name="reports")
    async with filled(pool, 1) as (gate, _):
        waiting = asyncio.create_task(pool.run(gate.block))
        await until(lambda: pool.statistics().waiting == 1)
        with pytest.raises(ThreadsFull, match=r"threads 'reports' .*1 of 1") as refusal:
            await pool.run(gate.block)
        assert refusal.value.retry_after is not None
        assert pool.statistics().refused == 1
        gate.opened.set()
        assert await waiting == "done"


async def test_a_wait_for_a_place_ends_after_max_wait() -> None:
    pool = Threads(1, max_wait=0.01)
    async with filled(pool, 1) as (gate, _):
        with pytest.raises(ThreadsFull):
            await pool.run(gate.block)
        assert (gate.begun, pool.statistics().waiting) == (1, 0)


async def test_a_deadline_ends_the_wait_for_a_place_and_nothing_runs() -> None:
    pool = Threads(1, max_wait=30)
    async with filled(pool, 1) as (gate, _):
        with pytest.raises(DeadlineExceeded):
            async with deadline(0.01):
                await pool.run(gate.block)
        with pytest.raises(DeadlineExceeded):
            async with deadline(0):
                await pool.run(gate.block)
        assert gate.begun == 1


async def test_a_cancelled_caller_goes_on_at_once_and_its_thread_keeps_the_place() -> None:
    pool = Threads(1, max_wait=0)
    async with filled(pool, 1) as (gate, tasks):
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        statistics = pool.statistics()
        assert (statistics.in_use, statistics.abandoned, gate.ended) == (1, 1, 0)
        with pytest.raises(ThreadsFull):
            await pool.run(gate.block)
    assert await pool.run(str, 7) == "7"
    await until(lambda: pool.statistics().in_use == 0)


async def test_cancelled_at_every_tick_of_the_wait_no_place_is_lost() -> None:
    for ticks in range(12):
        pool = Threads(1, max_wait=30)
        async with filled(pool, 1) as (gate, _):
            waiting = asyncio.create_task(pool.run(gate.block))
            await until(lambda pool=pool: pool.statistics().waiting == 1)  # type: ignore[misc]
            gate.opened.set()
            for _ in range(ticks):
                await asyncio.sleep(0)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
        assert await pool.run(str, 1) == "1"
        await until(lambda pool=pool: pool.statistics().in_use == 0)  # type: ignore[misc]
        assert pool.statistics().waiting == 0


async def test_a_failure_after_the_caller_has_gone_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool, gate = Threads(1), Gate()

    def fail() -> None:
        gate.block()
        raise ConnectionError("mail server gone")

    task = asyncio.create_task(pool.run(fail))
    await until(lambda: gate.begun == 1)
    task.cancel()
    await asyncio.wait([task])
    gate.opened.set()
    await until(lambda: "mail server gone" in caplog.text)
    assert "fail failed after its caller had gone" in caplog.text


async def test_a_drain_waits_for_running_threads_and_takes_no_more_calls() -> None:
    pool = Threads(2)
    async with filled(pool, 2) as (gate, tasks):
        tasks[0].cancel()
        draining = asyncio.create_task(pool.drain(MONOTONIC.now() + 30))
        await asyncio.sleep(0)
        with pytest.raises(ThreadsClosed):
            await pool.run(str, 1)
        assert not draining.done()
        gate.opened.set()
        assert await draining == []
        assert gate.ended == 2


async def test_a_drain_lists_the_threads_that_did_not_end_and_where_they_are() -> None:
    pool = Threads(1)
    async with filled(pool, 1):
        (loss,) = await pool.drain(MONOTONIC.now() + 0.01)
        assert (loss.kind, loss.name) == ("thread", "Gate.block")
        assert "test_threads.py" in loss.detail


async def test_it_opens_again_for_another_life() -> None:
    pool = Threads(1)
    await pool.drain(0.0)
    await pool.close()
    await pool.open(Lifecycle())
    assert await pool.run(str, 1) == "1"
    await until(lambda: pool.statistics().in_use == 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"capacity": 0},
        {"capacity": True},
        {"capacity": 1, "max_queue": -1},
        {"capacity": 1, "max_wait": -1},
        {"capacity": 1, "max_wait": float("inf")},
        {"capacity": 1, "max_wait": float("nan")},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match="Threads"):
        Threads(**settings)


def test_in_a_service_a_full_pool_is_503_and_a_late_thread_504() -> None:
    app, gate = FastAPI(), Gate()
    pool = stormproof.Threads(1, max_wait=0, name="reports")

    @app.get("/report", dependencies=[stormproof.route_deadline(0.05)])
    async def report() -> str:
        return await pool.run(gate.block)

    stormproof.install(app, pool, prestop=0.0)
    with TestClient(app) as client:
        late, full = client.get("/report"), client.get("/report")
        assert (late.status_code, late.json()["code"]) == (504, "SP301")
        assert (full.status_code, full.json()["code"]) == (503, "SP211")
        assert int(full.headers["retry-after"]) >= 1
        assert pool.statistics().abandoned == 1
        gate.opened.set()
    assert gate.ended == 1
