"""Rate limits: the arithmetic, the headers, and where they stand."""

import asyncio
import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import example, given
from hypothesis import strategies as st

import stormproof
from stormproof._core.events import Event, Events, RateRefused
from stormproof.errors import InvalidSetting, RateLimited
from stormproof.limit import Admission, AdmissionRule, Limiter, RateLimit
from stormproof.limit._gcra import Quota, judge
from stormproof.testing import HandClock

from .test_admission import Client, Handler, guarded

ALICE = {"type": "http", "client": ("192.0.2.1", 1)}
BOB = {"type": "http", "client": ("192.0.2.2", 1)}


async def test_a_whole_quota_at_once_and_then_one_call_each_interval() -> None:
    clock = HandClock()
    limit = RateLimit(3, per=60, clock=clock)
    assert [(await limit.take("a")).is_allowed for _ in range(4)] == [True, True, True, False]
    clock.turn(20.0)
    assert [(await limit.take("a")).is_allowed for _ in range(2)] == [True, False]
    assert (await limit.take("a")).retry_after == pytest.approx(20.0)
    clock.turn(60.0)
    assert [(await limit.take("a")).remaining for _ in range(4)] == [2, 1, 0, 0]


@given(
    calls=st.integers(1, 20),
    seconds=st.floats(0.1, 100),
    pauses=st.lists(st.floats(0, 50), max_size=200),
)
@example(calls=1, seconds=1.0, pauses=[0.0, 0.0])
def test_calls_never_exceed_the_burst_and_what_was_earned_since(
    calls: int, seconds: float, pauses: list[float]
) -> None:
    """Allowed by time t: the burst and what was earned since, for any pattern of calls."""
    quota, now, full_at = Quota(calls, seconds), 0.0, 0.0
    allowed = list[float]()
    for pause in pauses:
        now += pause
        verdict = judge(quota, full_at - now)
        assert 0 <= verdict.remaining < calls
        assert verdict.is_allowed == (verdict.retry_after == 0.0)
        if verdict.is_allowed:
            allowed.append(now)
            full_at = now + verdict.reset
        else:
            assert judge(quota, full_at - now - verdict.retry_after).is_allowed
    for start, first in enumerate(allowed):
        for end in range(start, len(allowed)):
            earned = (allowed[end] - first) / quota.interval
            assert end - start + 1 <= calls + earned + 1e-3


async def test_the_headers_are_those_of_the_draft() -> None:
    limit = RateLimit(100, per=60, name="search", clock=HandClock())
    fields = dict(await limit.check(ALICE))
    assert fields == {
        b"ratelimit-policy": b'"search";q=100;w=60',
        b"ratelimit": b'"search";r=99;t=1',
    }
    for value in fields.values():
        assert re.fullmatch(rb'"[^"\\]+"(;[a-z]+=\d+)+', value)


async def test_each_caller_has_a_quota_and_a_refusal_says_when() -> None:
    events, heard = Events(), list[Event]()
    events.subscribe(heard.append)
    limit = RateLimit(1, per=30, name="x", events=events, clock=HandClock())
    await limit.check(ALICE)
    await limit.check(BOB)
    with pytest.raises(RateLimited, match=r"'x' is used up \(1 calls in 30 s\)") as caught:
        await limit.check(ALICE)
    assert (caught.value.status, caught.value.retry_after) == (429, pytest.approx(30.0))
    assert heard == [RateRefused("x", pytest.approx(30.0))]
    now = limit.statistics()
    assert (now.allowed, now.refused, now.keys) == (2, 1, 2)


async def test_callers_whose_quota_is_whole_again_are_forgotten() -> None:
    clock = HandClock()
    limit = RateLimit(2, per=10, clock=clock)
    for number in range(20_000):
        await limit.take(number)
        clock.turn(0.01)
    assert len(limit._full_at) <= 4096
    clock.turn(10.0)
    assert limit.statistics().keys == 0


async def test_over_the_rate_is_answered_before_a_slot_is_asked_for() -> None:
    limiter, handler = Limiter(1, max_wait=0), Handler()
    handler.answer.set()
    rules = [AdmissionRule(prefix="/free", is_exempt=True)]
    admission = Admission(limiter, rate=RateLimit(1, per=60, name="all"), rules=rules)
    app = guarded(handler, admission)
    clients = [Client(), Client(), Client(path="/free"), Client(path="/livez")]
    for client in clients:
        await client.ask(app)
    assert [client.status for client in clients] == [200, 429, 200, 200]
    assert limiter.statistics().admitted == 1
    first, second = (dict(client.sent[0]["headers"]) for client in clients[:2])
    assert first[b"ratelimit"] == b'"all";r=0;t=60'
    assert second[b"ratelimit-policy"] == b'"all";q=1;w=60'
    assert second[b"retry-after"] == b"60"
    assert b"ratelimit" not in dict(clients[2].sent[0]["headers"])


async def test_a_rate_alone_needs_no_limiter() -> None:
    handler = Handler()
    handler.answer.set()
    rules = [AdmissionRule(prefix="/search", rate=RateLimit(1, per=60))]
    app = guarded(handler, Admission(rules=rules))
    clients = [Client(path=path) for path in ("/search", "/search/x", "/", "/")]
    await asyncio.gather(*(client.ask(app) for client in clients))
    assert [client.status for client in clients] == [200, 429, 200, 200]


def test_as_a_dependency_it_counts_its_route_and_tells_what_is_left() -> None:
    app = FastAPI()
    limit = stormproof.RateLimit(2, per=60, name="search", key=lambda scope: "everybody")

    @app.get("/search", dependencies=[stormproof.rate_limit(limit)])
    async def search() -> dict[str, int]:
        return {"found": 0}

    stormproof.install(app)
    with TestClient(app) as client:
        answers = [client.get("/search") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["ratelimit"] == '"search";r=1;t=30'
    assert answers[2].headers["ratelimit-policy"] == '"search";q=2;w=60'
    assert answers[2].headers["retry-after"] == "30"
    assert answers[2].json()["code"] == "SP203"


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("calls", {"calls": 0, "per": 1}),
        ("per", {"calls": 1, "per": 0}),
        ("per", {"calls": 1, "per": -1.0}),
        ("name", {"calls": 1, "per": 1, "name": 'a"b'}),
        ("name", {"calls": 1, "per": 1, "name": "a\r\nb"}),
    ],
)
def test_a_bad_argument_is_refused_by_its_name(argument: str, options: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting, match=rf"^RateLimit\({argument}=.*\) must be"):
        RateLimit(**options)  # type: ignore[arg-type]
