"""Rate limits in a real Valkey: shared, as in process, and never in the way when it is away."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import stormproof
from stormproof._core.events import Event, Events, RateStoreLost, RateStoreRegained
from stormproof.deadline import deadline
from stormproof.errors import InvalidSetting, RateStoreDown
from stormproof.limit import RateLimit
from stormproof.testing import HandClock
from tests.harness import RedisServer, running_redis

PROMPT = 1.0
"""Seconds; far above `store_timeout`, far below what a blackhole takes without it."""


@asynccontextmanager
async def shared(server: RedisServer, calls: int = 3, **options: Any) -> AsyncIterator[RateLimit]:
    limit = RateLimit(calls, store=server.url, **{"per": 60, "name": "search", **options})
    try:
        yield limit
    finally:
        await limit.close()


async def test_two_processes_share_a_quota(redis_server: RedisServer) -> None:
    async with shared(redis_server) as one, shared(redis_server) as other:
        verdicts = [await limit.take("a") for limit in (one, other, one, other)]
        assert [verdict.remaining for verdict in verdicts] == [2, 1, 0, 0]
        assert [verdict.is_allowed for verdict in verdicts] == [True, True, True, False]
        assert verdicts[3].retry_after == pytest.approx(20.0, abs=1.0)
        assert (await other.take("b")).is_allowed
    redis_server.clear()


async def test_calls_at_once_are_counted_to_the_very_last(redis_server: RedisServer) -> None:
    patient = {"calls": 50, "store_timeout": 30.0}
    async with shared(redis_server, **patient) as one, shared(redis_server, **patient) as other:
        verdicts = await asyncio.gather(*(limit.take("a") for limit in (one, other) * 60))
        assert sum(verdict.is_allowed for verdict in verdicts) == 50
        assert one.statistics().unknown == 0


@pytest.mark.parametrize("calls", [1, 3, 7])
async def test_it_says_what_a_limit_in_process_says(redis_server: RedisServer, calls: int) -> None:
    """The same arithmetic; the time between two calls of a test is the tolerance."""
    alone, scope = RateLimit(calls, per=60, name="search", clock=HandClock()), {"type": "http"}
    async with shared(redis_server, calls, key=lambda scope: "all") as limit:
        for _ in range(calls):
            assert await limit.check(scope) == await alone.check(scope)
        ours, theirs = await limit.take("all"), await alone.take()
        assert math.isclose(ours.retry_after, theirs.retry_after, abs_tol=1.0)


async def test_a_quota_comes_back_and_its_key_goes_away(redis_server: RedisServer) -> None:
    async with shared(redis_server, calls=2, per=0.02) as limit:
        while (await limit.take("a")).is_allowed:
            pass
        while not (await limit.take("a")).is_allowed:
            await asyncio.sleep(0.001)
        while redis_server.say("DBSIZE") != b":0\r\n":
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("how", ["dead", "stalled"])
async def test_a_store_that_is_away_stalls_nobody(how: str) -> None:
    """It is asked once a second, and everybody else is told at once."""
    events, heard, clock = Events(), list[Event](), HandClock()
    events.subscribe(heard.append)
    with running_redis() as server:
        async with (
            shared(server, clock=clock, events=events, store_timeout=0.05) as counted,
            shared(server, clock=clock, on_store_down="allow", store_timeout=0.05) as open_,
            shared(server, clock=clock, on_store_down="refuse", store_timeout=0.05) as closed,
        ):
            for limit in (counted, open_, closed):
                assert (await limit.take("a")).is_allowed
            server.kill() if how == "dead" else server.stall()
            async with asyncio.timeout(PROMPT):
                allowed = [(await counted.take("a")).is_allowed for _ in range(5)]
                assert allowed == [True, True, True, False, False]  # by this process alone
                assert all([(await open_.take("a")).is_allowed for _ in range(5)])
                for _ in range(5):
                    with pytest.raises(RateStoreDown):
                        await closed.take("a")
            (lost,) = heard
            assert isinstance(lost, RateStoreLost)
            assert "Error" in lost.cause
            server.start() if how == "dead" else server.resume()
            clock.turn(1.0)
            # What was sent to a stalled store is answered late: nobody may get another's answer.
            verdicts = [await counted.take(key) for key in ("x", "x", "y", "x", "x")]
            assert [verdict.remaining for verdict in verdicts] == [2, 1, 2, 0, 0]
            assert not verdicts[4].is_allowed
            assert heard[1:] == [RateStoreRegained("search")]


async def test_while_one_call_finds_out_whether_the_store_is_back_nobody_waits_for_it() -> None:
    clock = HandClock()
    with running_redis() as server:
        async with shared(server, clock=clock, store_timeout=0.05) as limit:
            server.stall()
            await limit.take("a")
            clock.turn(1.0)
            scout = asyncio.create_task(limit.take("a"))
            await asyncio.sleep(0)
            others = [asyncio.create_task(limit.take(key)) for key in "abc"]
            await asyncio.wait([scout, *others], return_when=asyncio.FIRST_COMPLETED)
            assert (scout.done(), all(task.done() for task in others)) == (False, True)
            await scout


async def test_a_deadline_ends_the_wait_and_says_nothing_about_the_store() -> None:
    with running_redis() as server:
        async with shared(server, store_timeout=30.0) as limit:
            await limit.take("a")
            server.stall()
            async with asyncio.timeout(PROMPT):
                with pytest.raises(TimeoutError):
                    async with deadline(0.05):
                        await limit.take("a")
            server.resume()
            assert (await limit.take("b")).remaining == 2  # asked at once, and not left alone
            assert limit.statistics().unknown == 0


async def test_cancelled_at_every_tick_nobody_gets_the_answer_of_another(
    redis_server: RedisServer,
) -> None:
    async with shared(redis_server, calls=1000) as limit:
        for ticks in range(12):
            victim = asyncio.create_task(limit.take("spent"))
            for _ in range(ticks):
                await asyncio.sleep(0)
            victim.cancel()
            await asyncio.wait([victim])
            assert (await limit.take(f"new {ticks}")).remaining == 999
        assert limit.statistics().unknown == 0


def test_in_a_service_it_is_opened_and_closed_with_the_app(redis_server: RedisServer) -> None:
    """Twice, because each life has a loop of its own; a connection left open fails this test."""
    app = FastAPI()
    everywhere = RateLimit(3, per=60, name="all", store=redis_server.url)
    search = RateLimit(1, per=60, name="search", store=redis_server.url)

    @app.get("/search", dependencies=[stormproof.rate_limit(search)])
    async def found() -> str:
        return "found"

    stormproof.install(app, prestop=0.0, admission=stormproof.Admission(rate=everywhere))
    with TestClient(app) as client:
        fields = client.get("/search").headers["ratelimit"]
        assert fields == '"search";r=0;t=60, "all";r=2;t=20'
    with TestClient(app) as client:
        refused = client.get("/search")
    assert (refused.status_code, refused.json()["code"]) == (429, "SP203")
    assert refused.headers["retry-after"] == "60"
    assert search.statistics().refused == 1


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("store", {"store": "memcached://127.0.0.1"}),
        ("on_store_down", {"on_store_down": "open"}),
        ("store_timeout", {"store_timeout": -1.0}),
    ],
)
def test_a_bad_argument_is_refused_by_its_name(argument: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match=rf"^RateLimit\({argument}=.*\) must be"):
        RateLimit(1, per=1, **options)
