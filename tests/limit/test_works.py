"""Kinds of work behind one limiter: each is judged by its own time, in virtual time."""

import asyncio
import random
from dataclasses import dataclass

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient

import stormproof
from stormproof._core.deadline import Deadline, in_force
from stormproof.errors import DeadlineExceeded, StormproofError
from stormproof.fastapi._routes import route_finder
from stormproof.limit import Limiter
from stormproof.limit._works import Works
from tests.virtual_time import LoopClock, run_virtually


@dataclass
class Kind:
    """Calls of one kind: how often, how long, with how much time, and what became of them."""

    name: str
    rate: float
    hold: float
    left: float
    good: int = 0
    late: int = 0
    shed: int = 0


def offer(limiter: Limiter, kinds: list[Kind], seconds: float, *, named: bool) -> None:
    chance = random.Random(1)

    async def call(kind: Kind) -> None:
        clock = LoopClock()
        deadline = Deadline(clock.now() + kind.left, clock=clock)
        try:
            with in_force(deadline):
                async with limiter.slot(work=kind.name if named else None):
                    await asyncio.sleep(kind.hold * chance.uniform(0.8, 1.2))
        except StormproofError:
            kind.shed += 1
        else:
            kind.good += deadline.remaining() >= 0
            kind.late += deadline.remaining() < 0

    async def come(kind: Kind, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        end_at = loop.time() + seconds
        while loop.time() < end_at:
            await asyncio.sleep(chance.expovariate(kind.rate))
            group.create_task(call(kind))

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for kind in kinds:
                group.create_task(come(kind, group))

    run_virtually(main())


def mixed(*, named: bool) -> tuple[Kind, Kind]:
    """Offer 10 slots 17 slots' worth of work: 0.05 s for 0.2 s, and 5 s for 6 s."""
    quick, slow = Kind("quick", 200.0, 0.05, 0.2), Kind("slow", 1.5, 5.0, 6.0)
    limiter = Limiter(10)
    offer(limiter, [quick, slow], 30.0, named=named)
    assert limiter._queue.hold(7.0) == 7.0, "nobody waits, so nobody's time is counted"
    return quick, slow


def test_quick_work_is_not_refused_for_the_time_that_slow_work_takes() -> None:
    quick, slow = mixed(named=True)
    assert quick.good >= 0.85 * (quick.good + quick.shed)
    assert quick.late + slow.late <= 0.01 * quick.good


def test_one_mean_for_all_refuses_most_of_the_quick_work() -> None:
    """If this fails, the test above proves nothing any more."""
    quick, _ = mixed(named=False)
    assert quick.good <= 0.4 * (quick.good + quick.shed)


def test_those_ahead_are_counted_with_their_own_time() -> None:
    """One slow call ahead is a long wait, ten quick ones are a short one."""
    limiter = Limiter(1, max_wait=60.0, target_wait=60.0)

    async def call(work: str, seconds: float) -> None:
        async with limiter.slot(work=work):
            await asyncio.sleep(seconds)

    async def refused_after(works: list[tuple[str, float]]) -> float | None:
        """Return the wait told to a caller with 1 s behind `works`, or None when it may wait."""
        tasks = [asyncio.create_task(call(*work)) for work in works]
        await asyncio.sleep(0)
        clock = LoopClock()
        try:
            with in_force(Deadline(clock.now() + 1.0, clock=clock)):
                await call("quick", 0.05)
        except StormproofError as error:
            return error.retry_after
        finally:
            await asyncio.gather(*tasks)
        return None

    async def main() -> None:
        for _ in range(20):
            await call("quick", 0.05)
            await call("slow", 5.0)
            await call("quick", 0.05)
        await asyncio.gather(*(call("quick", 0.05) for _ in range(40)))  # measured while waiting
        assert await refused_after([("quick", 0.05)] * 10) is None
        behind_slow = await refused_after([("quick", 0.05), ("slow", 5.0)])
        assert behind_slow == pytest.approx(5.05, abs=0.1)

    run_virtually(main())


def test_one_slow_first_call_does_not_lock_its_kind_out_of_an_endless_overload() -> None:
    limiter = Limiter(10)

    async def first() -> None:
        async with limiter.slot(work="search"):
            await asyncio.sleep(30.0)

    run_virtually(first())
    search, other = Kind("search", 300.0, 0.05, 1.0), Kind("other", 300.0, 0.05, 10.0)
    offer(limiter, [search, other], 5.0, named=True)
    assert search.good >= 0.25 * other.good


def test_a_call_that_was_cut_says_that_its_work_takes_longer() -> None:
    works = Works()
    works.ended("a", 1.0, is_cut=False)
    works.ended("a", 0.1, is_cut=True)  # its client has left
    assert works.expected("a").mean == 1.0  # type: ignore[union-attr]
    works.ended("a", 2.0, is_cut=True)
    assert works.expected("a").mean == pytest.approx(1.1)  # type: ignore[union-attr]


def test_kinds_of_work_do_not_add_up_without_end() -> None:
    works = Works()
    for number in range(5000):
        works.ended(number, 1.0, is_cut=False)
    assert works.expected(0) is None
    assert works.expected(4999) is not None
    assert len(works._kinds) == 1024


def test_in_a_service_the_kind_of_work_is_the_endpoint() -> None:
    """Found before the app has routed, as it is known afterwards."""
    app, items, limiter = FastAPI(), APIRouter(prefix="/items"), stormproof.Limiter(10)

    @items.get("/{number}")
    async def item(number: int) -> int:
        return number

    @items.post("/{number}")
    async def change(number: int) -> int:
        return number

    app.include_router(items, prefix="/v1")
    find = route_finder(app)
    stormproof.install(app, prestop=0.0, admission=limiter)
    with TestClient(app) as client:
        for number in range(3):
            client.get(f"/v1/items/{number}")
        client.post("/v1/items/1")
        client.get("/nowhere")
    scope = {"type": "http", "method": "GET", "path": "/v1/items/99"}
    assert set(limiter._works._kinds) == {item, change}
    assert find(scope) is item
    assert find({**scope, "method": "POST"}) is change
    assert find({**scope, "path": "/nowhere"}) is None


async def test_a_deadline_that_the_own_work_does_not_fit_into_is_refused_on_arrival() -> None:
    limiter = Limiter(1)
    limiter._works.ended("report", 5.0, is_cut=False)
    async with limiter.slot(work="report"):
        hurry = in_force(Deadline(asyncio.get_running_loop().time() + 2.0))
        with hurry, pytest.raises(StormproofError) as refusal:
            async with limiter.slot(work="report"):
                pass
    assert refusal.value.reason == "deadline"
    assert not isinstance(refusal.value, DeadlineExceeded)  # refused, and not too late
