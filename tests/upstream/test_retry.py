import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from stormproof._core.deadline import Deadline, in_force
from stormproof.errors import InvalidSetting, LimitExceeded, UpstreamFailed, UpstreamTimeout
from stormproof.limit import Limiter
from stormproof.upstream import Budget, Retry, Upstream
from stormproof.upstream._retry import retry_after
from tests.virtual_time import LoopClock

from .script import Script, Step, play

DOWN = Step(503)
REFUSED = Step(error=httpx2.ConnectError)


def always(retry: float, attempts: int = 3, **settings: object) -> Retry:
    """Return a policy that draws the longest pause, `retry` seconds after the first failure."""
    return Retry(attempts, base=retry, cap=100.0, draw=lambda: 1.0, **settings)  # type: ignore[arg-type]


async def get(upstream: Upstream) -> httpx2.Response:
    return await upstream.get("/")


@pytest.mark.parametrize("failure", [DOWN, Step(429), Step(502), Step(504), REFUSED])
def test_failure_is_tried_again_after_a_doubling_pause(failure: Step) -> None:
    script = Script([failure, failure, Step(200)])
    answer = play(script, get, retry=always(1.0))
    assert answer.status_code == 200
    assert script.asked_at == [0.0, 1.0, 3.0]
    assert script.told == ["10.000", "9.000", "7.000"]


def test_last_failure_is_what_the_call_ends_in() -> None:
    script = Script([DOWN])
    assert play(script, get, retry=always(0.1)).status_code == 503
    assert len(script.asked_at) == 3
    script = Script([REFUSED])
    with pytest.raises(UpstreamFailed, match="could not be reached"):
        play(script, get, retry=always(0.1))
    assert len(script.asked_at) == 3


@pytest.mark.parametrize("status", [200, 400, 404, 500])
def test_other_answers_are_not_tried_again(status: int) -> None:
    script = Script([Step(status)])
    assert play(script, get, retry=always(0.1)).status_code == status
    assert len(script.asked_at) == 1


def test_answer_that_broke_off_is_tried_again_only_when_asked() -> None:
    broken = Step(error=httpx2.RemoteProtocolError)
    script = Script([broken, Step(200)])
    with pytest.raises(UpstreamFailed, match="broke off"):
        play(script, get, retry=always(0.1))
    script = Script([broken, Step(200)])
    assert play(script, get, retry=always(0.1, broken=True)).status_code == 200


def test_pause_is_drawn_evenly_below_its_longest() -> None:
    retry = Retry(base=0.1, cap=0.5, draw=lambda: 0.5)
    assert [retry.pause(n) for n in (1, 2, 3, 4, 5000)] == [0.05, 0.1, 0.2, 0.25, 0.25]
    drawn = [Retry(base=1.0).pause(1) for _ in range(200)]
    assert 0.0 <= min(drawn) < 0.2
    assert 0.8 < max(drawn) <= 1.0


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_method_that_is_not_idempotent_is_asked_once(method: str) -> None:
    script = Script([DOWN])
    play(script, lambda upstream: upstream.request(method, "/"), retry=always(0.1))
    assert len(script.asked_at) == 1


def test_declared_idempotence_wins_over_the_method() -> None:
    script = Script([DOWN, Step(200)])
    answer = play(
        script,
        lambda upstream: upstream.post("/", json={"n": 1}, idempotent=True),
        retry=always(0.1),
    )
    assert answer.status_code == 200
    assert [request.content for request in script.requests] == [b'{"n":1}'] * 2
    script = Script([DOWN])
    play(script, lambda upstream: upstream.get("/", idempotent=False), retry=always(0.1))
    assert len(script.asked_at) == 1


def test_idempotency_key_declares_it_and_is_the_same_each_time() -> None:
    script = Script([DOWN, Step(200)])
    key = {"Idempotency-Key": "8e03978e"}
    play(script, lambda upstream: upstream.post("/", headers=key), retry=always(0.1))
    assert [request.headers["idempotency-key"] for request in script.requests] == ["8e03978e"] * 2
    script = Script([DOWN])
    call = {"headers": key, "idempotent": False}
    play(script, lambda upstream: upstream.post("/", **call), retry=always(0.1))
    assert len(script.asked_at) == 1


def test_body_that_comes_in_pieces_is_sent_once() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"

    script = Script([DOWN])
    play(script, lambda upstream: upstream.put("/", content=pieces()), retry=always(0.1))
    assert len(script.asked_at) == 1


def test_retry_after_comes_before_the_drawn_pause() -> None:
    script = Script([Step(503, headers={"retry-after": "2"}), Step(200)])
    play(script, get, retry=always(0.5))
    assert script.asked_at == [0.0, 2.5]


def test_retry_after_past_the_deadline_is_the_answer_at_once() -> None:
    script = Script([Step(503, headers={"retry-after": "60"})])

    async def main(upstream: Upstream) -> float:
        began_at = asyncio.get_running_loop().time()
        assert (await upstream.get("/")).status_code == 503
        return asyncio.get_running_loop().time() - began_at

    assert play(script, main, retry=always(0.5)) == 0.0
    assert len(script.asked_at) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
        ("Thursday, 01-Jan-70 00:01:40 GMT", 40.0),
        ("soon", 0.0),
        ("-5", 0.0),
        ("1.5", 0.0),
        ("²", 0.0),
        ("", 0.0),
    ],
)
def test_retry_after_is_read_in_seconds_and_as_a_date(value: str, seconds: float) -> None:
    assert retry_after({"retry-after": value}, now=lambda: 60.0) == seconds


def test_no_pause_goes_past_the_deadline_of_the_request() -> None:
    """Failures at 0 s and 1 s; the pause of 2 s would end at 3 s, the deadline is at 2.5 s."""
    script = Script([DOWN])

    async def main(upstream: Upstream) -> httpx2.Response:
        clock = LoopClock()
        with in_force(Deadline(clock.now() + 2.5, clock=clock)):
            return await upstream.get("/")

    assert play(script, main, retry=always(1.0, attempts=10)).status_code == 503
    assert script.asked_at == [0.0, 1.0]
    assert script.told == ["2.500", "1.500"]


def test_total_time_holds_over_all_attempts() -> None:
    script = Script([Step(503, delay=1.0), Step(200, delay=60.0)])
    with pytest.raises(UpstreamTimeout, match=r"within 3\.000 s"):
        play(script, get, retry=always(0.5), timeout=3.0)
    assert script.asked_at == [0.0, 1.5]
    assert (script.cancelled, script.running) == (1, 0)


def test_spent_budget_means_no_extra_attempt_and_is_counted() -> None:
    script = Script([DOWN])

    async def main(upstream: Upstream) -> None:
        for _ in range(100):
            await upstream.get("/")
        counts = upstream.statistics()
        assert (counts.calls, counts.retries, counts.extra_refused) == (100, 10, 99)

    play(script, main, retry=always(0.0), budget=Budget(0.1, minimum=3, clock=LoopClock()))
    assert len(script.asked_at) == 110


def test_budget_is_shared_by_all_who_hold_it() -> None:
    budget = Budget(0.0, minimum=1, clock=LoopClock())

    async def main(upstream: Upstream) -> None:
        other = Upstream(client=upstream.client, retry=always(0.0), budget=budget)
        async with other:
            await upstream.get("http://a/")
            await other.get("http://a/")
        assert upstream.statistics().retries + other.statistics().retries == 1

    play(Script([DOWN]), main, retry=always(0.0), budget=budget)


def test_slot_is_not_held_in_the_pause_and_a_shed_call_is_not_tried_again() -> None:
    limit = Limiter(1, max_wait=0.0)

    async def main(upstream: Upstream) -> None:
        first = asyncio.create_task(upstream.get("/"))
        await asyncio.sleep(1.5)  # it failed after 1 s, and pauses until 3 s
        assert limit.statistics().in_use == 0
        second = asyncio.create_task(upstream.get("/"))
        await asyncio.sleep(0.1)
        with pytest.raises(LimitExceeded):
            await upstream.get("/")
        assert [(await call).status_code for call in (first, second)] == [200, 200]

    script = Script([Step(503, delay=1.0), Step(200, delay=1.0)])
    play(script, main, retry=always(2.0), limit=limit)


def test_fan_out_tries_again_what_may_be() -> None:
    script = Script([DOWN, DOWN, Step(200)])

    async def main(upstream: Upstream) -> bool:
        return (await upstream.gather("/a", "/b")).is_complete

    assert play(script, main, retry=always(0.1))


@pytest.mark.parametrize("after", [0.0, 0.5, 1.0, 1.2, 2.0, 2.5])
def test_cancelled_at_any_moment_leaves_no_call_behind(after: float) -> None:
    script = Script([Step(503, delay=1.0), Step(200, delay=1.0)])

    async def main(upstream: Upstream) -> None:
        calling = asyncio.create_task(upstream.get("/"))
        await asyncio.sleep(after)
        calling.cancel()
        await asyncio.wait([calling])
        assert calling.cancelled()
        assert script.running == upstream.statistics().in_flight == 0

    play(script, main, retry=always(0.5))


@pytest.mark.parametrize("settings", [{"attempts": 0}, {"base": -1.0}, {"cap": float("inf")}])
def test_unusable_policy_is_named(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(settings))):
        Retry(**settings)  # type: ignore[arg-type]
