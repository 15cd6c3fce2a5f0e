import asyncio

import httpx2
import pytest

from stormproof.errors import InvalidSetting, UpstreamFailed, UpstreamTimeout
from stormproof.limit import Limiter
from stormproof.upstream import Budget, Hedge, Retry, Upstream
from tests.harness import until
from tests.virtual_time import LoopClock, ticks

from .script import Script, Step, play
from .servers import Peer

USUAL = [Step(200, delay=0.1)] * 20
HEDGE = Hedge(0.95, factor=2.0, min_calls=20)
DELAY = 0.216
"""Twice the p95 of 0.1 s, which the estimator rounds up to 0.108 s."""
UNLIMITED = Budget(1.0, minimum=100, clock=LoopClock())


async def warm(upstream: Upstream) -> None:
    for _ in range(20):
        await upstream.get("/")


async def then_get(upstream: Upstream) -> httpx2.Response:
    await warm(upstream)
    return await upstream.get("/")


def test_slow_call_is_sent_again_and_the_first_good_answer_wins() -> None:
    script = Script([*USUAL, Step(200, delay=9.0), Step(201, delay=0.1)])

    async def main(upstream: Upstream) -> None:
        await warm(upstream)
        began_at = asyncio.get_running_loop().time()
        answer = await upstream.get("/")
        took = asyncio.get_running_loop().time() - began_at
        assert answer.status_code == 201
        assert took == pytest.approx(DELAY + 0.1, abs=0.01)
        assert script.running == 0
        assert len(asyncio.all_tasks()) == 1
        counts = upstream.statistics()
        assert (counts.calls, counts.hedges, counts.hedges_won) == (21, 1, 1)

    play(script, main, hedge=HEDGE)
    assert script.cancelled == 1
    assert float(script.told[-1]) == pytest.approx(10.0 - DELAY, abs=0.01)


def test_first_answer_wins_when_it_comes_first() -> None:
    script = Script([*USUAL, Step(200, delay=0.3), Step(201, delay=9.0)])

    async def main(upstream: Upstream) -> None:
        assert (await then_get(upstream)).status_code == 200
        counts = upstream.statistics()
        assert (counts.hedges, counts.hedges_won, script.running) == (1, 0, 0)

    play(script, main, hedge=HEDGE)


def test_usual_calls_are_not_sent_again() -> None:
    script = Script([*USUAL, Step(200, delay=0.15)])
    play(script, then_get, hedge=HEDGE)
    assert len(script.asked_at) == 21


def test_no_hedge_before_enough_calls_were_seen() -> None:
    script = Script([Step(200, delay=1.0)])

    async def main(upstream: Upstream) -> None:
        for _ in range(19):
            await upstream.get("/")
        assert upstream.statistics().hedges == 0

    play(script, main, hedge=HEDGE)


@pytest.mark.parametrize("failure", [Step(503, delay=0.3), Step(delay=0.3, error=httpx2.ReadError)])
def test_failure_of_the_first_does_not_beat_a_pending_good_answer(failure: Step) -> None:
    script = Script([*USUAL, failure, Step(201, delay=0.5)])
    assert play(script, then_get, hedge=HEDGE).status_code == 201


def test_failure_of_the_hedge_leaves_the_first_to_answer() -> None:
    script = Script([*USUAL, Step(201, delay=1.0), Step(503)])
    assert play(script, then_get, hedge=HEDGE).status_code == 201


def test_when_both_fail_an_answer_is_preferred_to_an_error() -> None:
    broken = Step(delay=0.3, error=httpx2.ReadError)
    script = Script([*USUAL, broken, Step(503, delay=0.3)])
    assert play(script, then_get, hedge=HEDGE).status_code == 503
    with pytest.raises(UpstreamFailed, match="broke off"):
        play(Script([*USUAL, broken]), then_get, hedge=HEDGE)


def test_quick_failure_is_not_hedged() -> None:
    script = Script([*USUAL, Step(503, delay=0.01)])
    assert play(script, then_get, hedge=HEDGE).status_code == 503
    assert len(script.asked_at) == 21


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_method_that_is_not_idempotent_is_not_hedged(method: str) -> None:
    script = Script([*USUAL, Step(200, delay=9.0)])

    async def main(upstream: Upstream) -> None:
        await warm(upstream)
        await upstream.request(method, "/")

    play(script, main, hedge=HEDGE)
    assert len(script.asked_at) == 21


def test_spent_budget_means_no_hedge_and_is_counted() -> None:
    script = Script([*USUAL, Step(200, delay=5.0)])

    async def main(upstream: Upstream) -> None:
        await then_get(upstream)
        counts = upstream.statistics()
        assert (counts.hedges, counts.extra_refused) == (0, 1)

    play(script, main, hedge=HEDGE, budget=Budget(0.0, minimum=0, clock=LoopClock()))


def test_last_of_the_budget_is_kept_for_the_slowest() -> None:
    """Four hedges: three go to calls of 0.3 s, a fourth such call is not late enough for one."""
    script = Script([*USUAL * 5, *[Step(200, delay=0.3)] * 7, Step(200, delay=9.0), Step(201)])

    async def main(upstream: Upstream) -> None:
        for _ in range(5):
            await warm(upstream)
        for hedges in (1, 2, 3, 3):
            await upstream.get("/")
            assert upstream.statistics().hedges == hedges
        assert (await upstream.get("/")).status_code == 201

    play(script, main, hedge=HEDGE, budget=Budget(0.0, minimum=4, clock=LoopClock()))


def test_slow_upstream_is_not_hedged_more_and_more() -> None:
    """All calls turn from 0.1 s to 5 s: given up ones count, so that 5 s becomes usual."""
    script = Script([*USUAL, Step(200, delay=5.0)])

    async def main(upstream: Upstream) -> None:
        await warm(upstream)
        for _ in range(40):
            await upstream.get("/")
        assert upstream.statistics().hedges < 12

    play(script, main, hedge=HEDGE, budget=UNLIMITED)


def test_time_over_while_both_run_reaps_both() -> None:
    script = Script([*USUAL, Step(200, delay=60.0)])

    async def main(upstream: Upstream) -> None:
        with pytest.raises(UpstreamTimeout):
            await then_get(upstream)
        assert script.running == 0
        assert len(asyncio.all_tasks()) == 1

    play(script, main, hedge=HEDGE, timeout=2.0)
    assert script.cancelled == 2


def test_hedge_that_would_come_after_the_time_is_not_sent() -> None:
    script = Script([*USUAL, Step(200, delay=60.0)])

    async def main(upstream: Upstream) -> None:
        await warm(upstream)
        with pytest.raises(UpstreamTimeout):
            await upstream.get("/", timeout=0.2)

    play(script, main, hedge=HEDGE)
    assert len(script.asked_at) == 21


def test_hedge_and_first_each_hold_a_slot_and_give_it_back() -> None:
    limit = Limiter(2, max_wait=0.0)
    script = Script([*USUAL, Step(200, delay=9.0), Step(201, delay=1.0)])

    async def main(upstream: Upstream) -> None:
        await warm(upstream)
        calling = asyncio.create_task(upstream.get("/"))
        await asyncio.sleep(0.5)
        assert limit.statistics().in_use == 2
        assert (await calling).status_code == 201
        assert limit.statistics().in_use == 0

    play(script, main, hedge=HEDGE, limit=limit)


def test_hedge_that_finds_no_slot_leaves_the_first_to_answer() -> None:
    limit = Limiter(1, max_wait=0.0)
    script = Script([*USUAL, Step(201, delay=1.0)])
    assert play(script, then_get, hedge=HEDGE, limit=limit).status_code == 201


def test_retry_after_a_hedge_that_failed_draws_on_the_same_budget() -> None:
    script = Script([*USUAL, Step(503, delay=0.3), Step(503, delay=0.3), Step(200)])
    budget = Budget(0.0, minimum=2, clock=LoopClock())
    retry = Retry(base=0.1, draw=lambda: 1.0)

    async def main(upstream: Upstream) -> None:
        assert (await then_get(upstream)).status_code == 200
        assert budget.left == 0

    play(script, main, hedge=HEDGE, retry=retry, budget=budget)
    assert len(script.asked_at) == 23


@pytest.mark.parametrize("after", [0.0, 0.1, DELAY, 0.22, 0.5, 1.0])
@pytest.mark.parametrize("more_ticks", range(6))
def test_cancelled_at_any_moment_leaves_no_task_and_no_call(after: float, more_ticks: int) -> None:
    script = Script([*USUAL, Step(200, delay=1.0), Step(201, delay=0.784)])

    async def main(upstream: Upstream) -> None:
        await warm(upstream)
        calling = asyncio.create_task(upstream.get("/"))
        await asyncio.sleep(after)
        await ticks(more_ticks)
        calling.cancel()
        await asyncio.wait([calling])
        assert script.running == upstream.statistics().in_flight == 0
        assert len(asyncio.all_tasks()) == 1

    play(script, main, hedge=HEDGE)


async def test_connection_of_the_loser_is_closed(upstream: Upstream, server: Peer) -> None:
    """On a real socket, by each way to the wire: the path decides that the first hangs."""
    hedged = Upstream(
        client=upstream.client, hedge=Hedge(min_delay=0.05, min_calls=1), budget=Budget(1.0)
    )
    async with hedged:
        await hedged.get("/ok", operation="get")
        answer = await hedged.get("/hang-once", operation="get")
        assert answer.json() == {"path": "/hang-once"}
        assert hedged.statistics().hedges_won == 1
        await until(lambda: server.open_connections == 1)


@pytest.mark.parametrize(
    "settings",
    [{"quantile": 0.0}, {"quantile": 1.0}, {"factor": 0}, {"min_delay": 0}, {"min_calls": 0}],
)
def test_unusable_hedge_is_named(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(settings))):
        Hedge(**settings)  # type: ignore[arg-type]
