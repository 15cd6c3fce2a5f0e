import asyncio
import contextlib

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormproof._core.events import CircuitChanged, Event, Events
from stormproof._core.lifecycle import Lifecycle
from stormproof._core.primitives import primitives
from stormproof.errors import (
    CircuitOpen,
    InvalidSetting,
    LimitExceeded,
    UpstreamFailed,
    UpstreamTimeout,
)
from stormproof.limit import Limiter
from stormproof.testing import HandClock
from stormproof.upstream import Budget, Circuit, CircuitBreaker, Hedge, Retry, Upstream
from tests.virtual_time import LoopClock, run_virtually

from .script import Script, Step, play


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def breaker(clock: HandClock) -> CircuitBreaker:
    return CircuitBreaker(0.5, min_calls=4, window=10.0, open_for=5.0, name="prices", clock=clock)


def end(breaker: CircuitBreaker, *outcomes: bool) -> None:
    for is_good in outcomes:
        permit = breaker.permit()
        permit.succeeded() if is_good else permit.failed()


def test_it_opens_at_the_failure_rate_and_answers_at_once(breaker: CircuitBreaker) -> None:
    end(breaker, True, True, False)
    assert breaker.circuit is Circuit.CLOSED
    end(breaker, False)
    assert breaker.circuit is Circuit.OPEN
    with pytest.raises(CircuitOpen, match=r"'prices' is open .* 5\.00 s \(2 of 4") as caught:
        breaker.permit()
    assert (caught.value.status, caught.value.code) == (503, "SP503")
    assert caught.value.retry_after == pytest.approx(5.0)
    assert breaker.refused == 1


def test_upstreams_and_breakers_are_told_with_their_counts(breaker: CircuitBreaker) -> None:
    end(breaker, True, False)
    upstream = Upstream(name="test-prices", breaker=breaker)
    told = {(one.kind, one.name): one.counts for one in primitives()}
    counts = {"circuit": "closed", "in_flight": 0, "refused": 0, "ended": 2, "failed": 1}
    assert told["breaker", "prices"] == counts
    assert told["upstream", upstream.name]["circuit"] == "closed"


def test_few_calls_do_not_open_it(breaker: CircuitBreaker) -> None:
    end(breaker, False, False, False)
    assert breaker.circuit is Circuit.CLOSED


def test_failures_older_than_the_window_are_forgotten(
    breaker: CircuitBreaker, clock: HandClock
) -> None:
    end(breaker, False, False, False)
    clock.turn(11.0)
    end(breaker, False)
    assert breaker.circuit is Circuit.CLOSED


def opened(breaker: CircuitBreaker) -> None:
    end(breaker, False, False, False, False)
    assert breaker.circuit is Circuit.OPEN


def test_half_open_lets_one_probe_through(breaker: CircuitBreaker, clock: HandClock) -> None:
    opened(breaker)
    clock.turn(4.99)
    with pytest.raises(CircuitOpen):
        breaker.permit()
    clock.turn(0.01)
    assert breaker.circuit is Circuit.HALF_OPEN
    probe = breaker.permit()
    assert probe.is_probe
    with pytest.raises(CircuitOpen, match="half-open and its probe is under way"):
        breaker.permit()
    probe.succeeded()
    assert breaker.circuit is Circuit.RAMPING
    end(breaker, False, False, False)
    assert breaker.circuit is Circuit.RAMPING
    end(breaker, False)
    assert breaker.circuit is Circuit.OPEN


def test_failed_probe_opens_it_for_the_whole_time_again(
    breaker: CircuitBreaker, clock: HandClock
) -> None:
    opened(breaker)
    clock.turn(7.0)
    breaker.permit().failed()
    assert breaker.circuit is Circuit.OPEN
    with pytest.raises(CircuitOpen, match="its probe failed") as caught:
        breaker.permit()
    assert caught.value.retry_after == pytest.approx(5.0)


def test_abandoned_probe_makes_room_for_the_next(breaker: CircuitBreaker, clock: HandClock) -> None:
    opened(breaker)
    clock.turn(5.0)
    breaker.permit().abandoned()
    assert breaker.permit().is_probe


def test_attempts_from_before_the_opening_say_nothing_about_the_time_after(
    breaker: CircuitBreaker, clock: HandClock
) -> None:
    early = [breaker.permit() for _ in range(4)]
    opened(breaker)
    clock.turn(5.0)
    probe = breaker.permit()
    early[0].succeeded()
    early[1].abandoned()
    assert not breaker.would_permit
    probe.succeeded()
    for permit in early:
        permit.failed()
    end(breaker, True, False, False)
    assert breaker.circuit is Circuit.RAMPING


def test_only_the_first_end_of_a_permit_counts(breaker: CircuitBreaker) -> None:
    permit = breaker.permit()
    permit.succeeded()
    for _ in range(10):
        permit.failed()
    assert breaker.circuit is Circuit.CLOSED


def test_callers_in_a_hurry_do_not_open_it(breaker: CircuitBreaker) -> None:
    for _ in range(100):
        breaker.permit().late(0.01)
    assert breaker.circuit is Circuit.CLOSED
    for _ in range(4):
        breaker.permit().late(0.5)
    assert breaker.circuit is Circuit.OPEN


def test_changes_are_told_as_events(clock: HandClock) -> None:
    seen: list[Event] = []
    events = Events()
    events.subscribe(seen.append)
    breaker = CircuitBreaker(min_calls=1, name="prices", clock=clock, events=events)
    breaker.permit().failed()
    clock.turn(5.0)
    breaker.permit().succeeded()
    clock.turn(5.0)
    end(breaker, True, True)
    assert seen == [
        CircuitChanged("prices", "open", "1 of 1 attempts failed"),
        CircuitChanged("prices", "ramping", "its probe was answered"),
        CircuitChanged("prices", "closed", "its ramp is over"),
    ]


def ramping(breaker: CircuitBreaker, clock: HandClock) -> None:
    opened(breaker)
    clock.turn(5.0)
    breaker.permit().succeeded()


def test_share_that_is_let_through_grows_from_a_tenth_to_all(
    breaker: CircuitBreaker, clock: HandClock
) -> None:
    ramping(breaker, clock)
    breaker.permit()  # one that is always under way: an idle upstream may be asked at any time
    admitted = []
    for _ in range(6):
        admitted.append(0)
        for _ in range(100):
            clock.turn(0.01)
            with contextlib.suppress(CircuitOpen):
                breaker.permit().succeeded()
                admitted[-1] += 1
    assert admitted == [12, 30, 50, 70, 90, 100]
    assert breaker.circuit is Circuit.CLOSED


def test_ramp_says_how_much_it_lets_through_and_when_it_ends(
    breaker: CircuitBreaker, clock: HandClock
) -> None:
    ramping(breaker, clock)
    clock.turn(2.0)
    breaker.permit()
    with pytest.raises(CircuitOpen, match=r"is ramping up, and lets 40% through") as caught:
        breaker.permit()
    assert caught.value.retry_after == pytest.approx(3.0)


def test_calls_one_after_another_pass_the_ramp(breaker: CircuitBreaker, clock: HandClock) -> None:
    ramping(breaker, clock)
    for _ in range(20):
        end(breaker, True)
    abandoned = breaker.permit()
    assert not breaker.would_permit
    abandoned.abandoned()
    assert breaker.would_permit
    assert breaker.refused == 0


def test_without_a_ramp_everything_passes_at_once(clock: HandClock) -> None:
    breaker = CircuitBreaker(min_calls=1, ramp=0.0, clock=clock)
    breaker.permit().failed()
    clock.turn(5.0)
    breaker.permit().succeeded()
    assert breaker.circuit is Circuit.CLOSED
    assert {breaker.permit().is_probe for _ in range(50)} == {False}


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["begin", "good", "bad", "late", "abandon"]), st.floats(0.0, 6.0)
        ),
        max_size=200,
    )
)
def test_open_lets_nothing_through_and_half_open_one_at_a_time(steps: list[str | float]) -> None:
    clock = HandClock()
    breaker = CircuitBreaker(0.5, min_calls=2, clock=clock)
    held = []
    probes = set()
    for step in steps:
        if isinstance(step, float):
            clock.turn(step)
        elif step == "begin":
            before = breaker.circuit
            try:
                permit = breaker.permit()
            except CircuitOpen:
                assert before is not Circuit.CLOSED
                continue
            assert before is not Circuit.OPEN
            assert permit.is_probe == (before is Circuit.HALF_OPEN)
            held.append(permit)
            if permit.is_probe:
                assert not probes
                probes.add(permit)
        elif held:
            permit = held.pop(0)
            probes.discard(permit)
            match step:
                case "good":
                    permit.succeeded()
                case "bad":
                    permit.failed()
                case "late":
                    permit.late(1.0)
                case _:
                    permit.abandoned()


@pytest.mark.parametrize(
    "settings",
    [
        {"failure_rate": 0},
        {"failure_rate": 1.1},
        {"min_calls": 0},
        {"window": 0},
        {"open_for": -1},
        {"ramp": -1},
    ],
)
def test_unusable_breaker_is_named(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(settings))):
        CircuitBreaker(**settings)  # type: ignore[arg-type]


def virtual(**settings: object) -> CircuitBreaker:
    return CircuitBreaker(min_calls=2, name="a", clock=LoopClock(), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("failure", [Step(500), Step(error=httpx2.ConnectError)])
def test_upstream_that_fails_is_not_asked_until_its_probe(failure: Step) -> None:
    script = Script([failure, failure, Step(200)])

    async def main(upstream: Upstream) -> None:
        await upstream.gather("/a", "/b", min_success=0)
        assert upstream.statistics().circuit == "open"
        results = await upstream.gather("/a", "/b", min_success=0)
        assert {type(error) for error in results.errors.values()} == {CircuitOpen}
        with pytest.raises(CircuitOpen, match="0 of 2 calls") as caught:
            await upstream.gather("/a", "/b")
        assert caught.value.retry_after == pytest.approx(5.0)
        await asyncio.sleep(5.0)
        assert (await upstream.get("/")).status_code == 200
        assert upstream.statistics().circuit == "ramping"
        await asyncio.sleep(5.0)
        assert upstream.statistics().circuit == "closed"

    play(script, main, breaker=virtual())
    assert script.asked_at == [0.0, 0.0, 5.0]


@pytest.mark.parametrize("status", [200, 404, 429])
def test_answers_below_500_do_not_open_it(status: int) -> None:
    async def main(upstream: Upstream) -> None:
        for _ in range(10):
            await upstream.get("/")
        assert upstream.statistics().circuit == "closed"

    play(Script([Step(status)]), main, breaker=virtual())


def test_late_answers_open_it_and_cancelled_calls_do_not() -> None:
    async def main(upstream: Upstream) -> None:
        for _ in range(5):
            calling = asyncio.create_task(upstream.get("/"))
            await asyncio.sleep(0.9)
            calling.cancel()
            await asyncio.wait([calling])
        assert upstream.statistics().circuit == "closed"
        for _ in range(2):
            with pytest.raises(UpstreamTimeout):
                await upstream.get("/", timeout=1.0)
        assert upstream.statistics().circuit == "open"

    play(Script([Step(200, delay=60.0)]), main, breaker=virtual())


def test_cancelled_probe_leaves_room_for_the_next() -> None:
    script = Script([Step(500), Step(500), Step(200, delay=9.0), Step(200)])

    async def main(upstream: Upstream) -> None:
        await upstream.gather("/a", "/b", min_success=0)
        await asyncio.sleep(5.0)
        probe = asyncio.create_task(upstream.get("/"))
        await asyncio.sleep(0.1)
        with pytest.raises(CircuitOpen):
            await upstream.get("/")
        probe.cancel()
        await asyncio.wait([probe])
        assert (await upstream.get("/")).status_code == 200

    play(script, main, breaker=virtual())


def test_shed_calls_say_nothing_about_the_upstream() -> None:
    limit = Limiter(1, max_wait=0.0)

    async def main(upstream: Upstream) -> None:
        async with limit.slot():
            for _ in range(5):
                with pytest.raises(LimitExceeded):
                    await upstream.get("/")
        assert upstream.statistics().circuit == "closed"

    play(Script([Step(200)]), main, breaker=virtual(), limit=limit)


def test_retries_end_when_the_circuit_opens() -> None:
    script = Script([Step(503)])

    async def main(upstream: Upstream) -> None:
        assert (await upstream.get("/")).status_code == 503

    play(script, main, breaker=virtual(), retry=Retry(10, draw=lambda: 0.0))
    assert len(script.asked_at) == 2


@pytest.mark.parametrize(("ramp", "openings"), [(5.0, 1), (0.0, 2)])
def test_upstream_with_cold_caches_is_not_knocked_over_again(ramp: float, openings: int) -> None:
    """100 calls/s; after an outage of 2 s it stands 20/s, and 20/s more with each second."""
    asked_at: list[float] = []

    async def answer(request: httpx2.Request) -> httpx2.Response:
        now = asyncio.get_running_loop().time() - 1000.0
        asked_at.append(now)
        await asyncio.sleep(0.05)
        rate = sum(1 for at in asked_at[-200:] if at > now - 1.0)
        return httpx2.Response(200 if now >= 2.0 and rate <= 20 * (now - 1.0) else 500)

    async def main() -> None:
        events = Events()
        seen: list[Event] = []
        events.subscribe(seen.append)
        breaker = virtual(ramp=ramp, open_for=2.0, events=events)
        transport = httpx2.MockTransport(answer)
        async with (
            Upstream(base_url="http://a", transport=transport, breaker=breaker) as upstream,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(900):
                group.create_task(upstream.gather("/", min_success=0))
                await asyncio.sleep(0.01)
        changes = [event.state for event in seen if isinstance(event, CircuitChanged)]
        assert changes.count("open") == openings

    run_virtually(main())


def test_probe_is_not_hedged() -> None:
    slow = Step(200, delay=1.0)
    script = Script([Step(200, delay=0.1), Step(500), Step(500), slow])

    async def main(upstream: Upstream) -> None:
        await upstream.get("/")
        await upstream.gather("/a", "/b", min_success=0)
        await asyncio.sleep(5.0)
        await upstream.get("/")
        assert upstream.statistics().hedges == 0

    hedge, budget = Hedge(min_calls=1), Budget(1.0, clock=LoopClock())
    play(script, main, breaker=virtual(), hedge=hedge, budget=budget)


async def test_installed_breaker_tells_the_lifecycle() -> None:
    lifecycle = Lifecycle()
    seen: list[Event] = []
    lifecycle.events.subscribe(seen.append)
    upstream = Upstream(
        breaker=CircuitBreaker(min_calls=1, name="a"),
        transport=httpx2.MockTransport(lambda request: httpx2.Response(500)),
    )
    await upstream.open(lifecycle)
    with pytest.raises(UpstreamFailed):
        await upstream.get("http://a/", raise_for_status=True)
    await upstream.close()
    assert CircuitChanged("a", "open", "1 of 1 attempts failed") in seen
