import asyncio
import math
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from stormproof._core.deadline import Deadline, in_force
from stormproof._core.events import Event, Events, SlotRefused
from stormproof.errors import DeadlineExceeded, InvalidSetting, LimitExceeded
from stormproof.limit import Limiter
from tests.virtual_time import LoopClock, run_virtually, ticks


async def hold(limiter: Limiter, until: asyncio.Event, inside: list[int], number: int) -> None:
    async with limiter.slot():
        inside.append(number)
        await until.wait()


def counts(limiter: Limiter) -> tuple[int, int, int, int, int, int]:
    """Return capacity, in use, waiting, admitted, shed and cancelled."""
    now = limiter.statistics()
    return (now.capacity, now.in_use, now.waiting, now.admitted, now.shed, now.cancelled)


def assert_idle(limiter: Limiter) -> None:
    now = limiter.statistics()
    assert (now.in_use, now.waiting) == (0, 0)
    assert all(waiter.done() for waiter in limiter._line.waiters or ())


async def test_capacity_callers_are_in_and_the_next_one_waits() -> None:
    limiter, leave, inside = Limiter(2), asyncio.Event(), list[int]()
    holders = [asyncio.create_task(hold(limiter, leave, inside, n)) for n in range(3)]
    await ticks()
    assert inside == [0, 1]
    assert counts(limiter) == (2, 2, 1, 2, 0, 0)
    leave.set()
    await asyncio.gather(*holders)
    assert inside == [0, 1, 2]
    assert counts(limiter) == (2, 0, 0, 3, 0, 0)


async def test_a_free_slot_is_taken_without_a_tick_of_the_loop() -> None:
    limiter, others = Limiter(1), list[str]()
    asyncio.get_running_loop().call_soon(others.append, "ran")
    for _ in range(1000):
        async with limiter.slot():
            pass
    assert others == []


async def test_a_slot_comes_back_when_the_block_raises() -> None:
    limiter = Limiter(1)
    with pytest.raises(ZeroDivisionError):
        async with limiter.slot():
            raise ZeroDivisionError
    assert_idle(limiter)


async def test_leaving_gives_the_slot_back_before_it_is_awaited() -> None:
    limiter = Limiter(1)
    await limiter.__aenter__()
    leaving = limiter.__aexit__(None, None, None)
    assert_idle(limiter)
    assert [await leaving, await leaving] == [None, None]


async def test_slots_go_to_those_who_wait_in_the_order_they_came() -> None:
    limiter, leave, inside = Limiter(1), asyncio.Event(), list[int]()
    holders = [asyncio.create_task(hold(limiter, leave, inside, n)) for n in range(8)]
    leave.set()
    await asyncio.gather(*holders)
    assert inside == list(range(8))


async def test_a_newcomer_does_not_overtake_a_caller_that_was_handed_the_slot() -> None:
    limiter, leave, inside = Limiter(1), asyncio.Event(), list[int]()
    async with limiter.slot():
        waiter = asyncio.create_task(hold(limiter, leave, inside, 1))
        await ticks()
    # The slot is handed over, the waiter has not run yet: it must not be free for others.
    assert limiter.statistics().in_use == 1
    newcomer = asyncio.create_task(hold(limiter, leave, inside, 2))
    leave.set()
    await asyncio.gather(waiter, newcomer)
    assert inside == [1, 2]


async def test_a_queue_that_is_too_long_sheds_on_arrival_with_the_numbers() -> None:
    """Before anything is measured, ten may wait for each slot."""
    events, heard = Events(), list[Event]()
    events.subscribe(heard.append)
    limiter = Limiter(1, name="reports", events=events)
    leave, inside = asyncio.Event(), list[int]()
    holders = [asyncio.create_task(hold(limiter, leave, inside, n)) for n in range(11)]
    await ticks()
    with pytest.raises(LimitExceeded) as caught:
        async with limiter.slot():
            pytest.fail("it was let in")
    assert str(caught.value) == (
        "limit 'reports' is full (1 of 1 in use, 10 waiting, a wait of 0.55 s ahead); "
        "raise the capacity or max_wait, or shed earlier [SP201]"
    )
    assert (caught.value.status, caught.value.reason) == (503, "queue")
    assert caught.value.retry_after == pytest.approx(0.55)
    assert heard == [SlotRefused("reports", 1, 10, 0.0, "queue")]
    leave.set()
    await asyncio.gather(*holders)
    assert counts(limiter) == (1, 0, 0, 11, 1, 0)
    assert limiter.statistics().refusals == {"queue": 1}


async def test_without_any_wait_a_full_limiter_sheds_everyone() -> None:
    limiter = Limiter(1, max_wait=0)
    async with limiter.slot():
        with pytest.raises(LimitExceeded):
            await limiter.slot().__aenter__()


async def test_closing_turns_away_who_waits_and_who_comes() -> None:
    limiter, leave, inside = Limiter(1, name="x"), asyncio.Event(), list[int]()
    holders = [asyncio.create_task(hold(limiter, leave, inside, n)) for n in range(3)]
    await ticks()
    limiter.close()
    limiter.close()
    ended = await asyncio.gather(*holders[1:], return_exceptions=True)
    assert [(type(e), getattr(e, "reason", "")) for e in ended] == [(LimitExceeded, "closed")] * 2
    assert counts(limiter) == (1, 1, 0, 1, 2, 0)
    leave.set()
    await holders[0]
    with pytest.raises(LimitExceeded, match="limit 'x' is closed") as caught:
        await limiter.slot().__aenter__()
    assert caught.value.retry_after == 1.0
    limiter.resize(5)
    with pytest.raises(LimitExceeded, match="closed"):
        await limiter.slot().__aenter__()
    assert_idle(limiter)


async def test_waiter_cancelled_in_the_tick_of_closing_is_cancelled() -> None:
    limiter = Limiter(1)
    async with limiter.slot():
        waiter = asyncio.create_task(limiter.slot().__aenter__())
        await ticks()
        limiter.close()
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
    assert waiter.cancelled()
    assert_idle(limiter)


def test_the_wait_ends_at_max_wait_and_says_how_long_it_was() -> None:
    async def main() -> None:
        events, heard = Events(), list[Event]()
        events.subscribe(heard.append)
        limiter = Limiter(1, max_wait=0.25, name="x", events=events)
        loop = asyncio.get_running_loop()
        async with limiter.slot():
            began_at = loop.time()
            with pytest.raises(LimitExceeded, match=r"1 of 1 in use, 0 waiting, waited 0\.25 s"):
                await limiter.slot().__aenter__()
            assert loop.time() - began_at == pytest.approx(0.25)
        assert_idle(limiter)
        assert [(e.reason, round(e.waited, 2)) for e in heard if isinstance(e, SlotRefused)] == [
            ("queue", 0.25)
        ]

    run_virtually(main())


def test_a_nearer_deadline_ends_the_wait_as_a_deadline() -> None:
    async def main() -> None:
        limiter, clock = Limiter(1, max_wait=5.0, name="x"), LoopClock()
        async with limiter.slot():
            began_at = clock.now()
            with (
                in_force(Deadline(began_at + 0.5, clock=clock)),
                pytest.raises(DeadlineExceeded, match=r"limit 'x' \(1 of 1 in use.* 0\.50 s"),
            ):
                await limiter.slot().__aenter__()
            assert clock.now() - began_at == pytest.approx(0.5)
        assert_idle(limiter)
        assert limiter.statistics().shed == 1

    run_virtually(main())


def test_a_farther_deadline_leaves_max_wait_in_charge() -> None:
    async def main() -> None:
        limiter, clock = Limiter(1, max_wait=0.1), LoopClock()
        async with limiter.slot():
            with in_force(Deadline(clock.now() + 9.0, clock=clock)), pytest.raises(LimitExceeded):
                await limiter.slot().__aenter__()

    run_virtually(main())


@pytest.mark.parametrize("left", [29.9 + number / 700 for number in range(20)])
def test_rounding_turns_nobody_away_before_anything_is_measured(left: float) -> None:
    async def main() -> None:
        limiter, clock = Limiter(1, max_wait=30.0), LoopClock()

        async def waits() -> None:
            with in_force(Deadline(clock.now() + left, clock=clock)):
                async with limiter.slot():
                    pass

        async with limiter.slot(), asyncio.TaskGroup() as group:
            callers = [group.create_task(waits()) for _ in range(10)]
            await ticks()
            assert limiter.statistics().waiting == 10
            for caller in callers:
                caller.cancel()

    run_virtually(main())


@pytest.mark.parametrize("late", [0.0, 0.3])
def test_a_deadline_that_has_passed_never_gets_a_slot(late: float) -> None:
    async def main() -> None:
        limiter, clock = Limiter(1), LoopClock()
        with in_force(Deadline(clock.now() - late, clock=clock)), pytest.raises(DeadlineExceeded):
            await limiter.slot().__aenter__()
        assert counts(limiter) == (1, 0, 0, 0, 1, 0)

    run_virtually(main())


async def test_a_slot_handed_over_after_the_deadline_goes_to_the_next_caller() -> None:
    """The loop was late: the hand-over ran before the timer that would have ended the wait."""

    class HandClock:
        at = 0.0

        def now(self) -> float:
            return self.at

    limiter, leave, inside, clock = (
        Limiter(1, max_wait=60),
        asyncio.Event(),
        list[int](),
        HandClock(),
    )

    async def hurried() -> None:
        with in_force(Deadline(30.0, clock=clock)):
            await hold(limiter, leave, inside, 1)

    async with limiter.slot():
        late = asyncio.create_task(hurried())
        await ticks()
        next_one = asyncio.create_task(hold(limiter, leave, inside, 2))
        await ticks()
        clock.at = 31.0
    leave.set()
    with pytest.raises(DeadlineExceeded):
        await late
    await next_one
    assert inside == [2]
    assert_idle(limiter)


async def test_cancelled_waiter_leaves_the_queue_to_the_others() -> None:
    limiter, leave, inside = Limiter(1), asyncio.Event(), list[int]()
    holders = [asyncio.create_task(hold(limiter, leave, inside, n)) for n in range(3)]
    await ticks()
    holders[1].cancel()
    await ticks()
    assert counts(limiter) == (1, 1, 1, 1, 0, 1)
    leave.set()
    await asyncio.gather(*holders, return_exceptions=True)
    assert inside == [0, 2]
    assert_idle(limiter)


async def test_waiter_cancelled_in_the_tick_of_the_hand_over_hands_the_slot_on() -> None:
    limiter, leave, inside = Limiter(1), asyncio.Event(), list[int]()
    async with limiter.slot():
        waiters = [asyncio.create_task(hold(limiter, leave, inside, n)) for n in range(2)]
        await ticks()
    waiters[0].cancel()
    leave.set()
    await asyncio.gather(*waiters, return_exceptions=True)
    assert waiters[0].cancelled()
    assert inside == [1]
    assert_idle(limiter)


@pytest.mark.parametrize("tick", range(12))
@pytest.mark.parametrize("victim", range(5))
async def test_no_slot_is_lost_when_a_caller_is_cancelled_at_any_tick(
    tick: int, victim: int
) -> None:
    limiter = Limiter(2)

    async def work() -> None:
        async with limiter.slot():
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    workers = [asyncio.create_task(work()) for _ in range(5)]
    await ticks(tick)
    workers[victim].cancel()
    ended = await asyncio.gather(*workers, return_exceptions=True)
    assert_idle(limiter)
    assert [type(e) for e in ended if e is not None] in ([], [asyncio.CancelledError])
    now = limiter.statistics()
    assert now.admitted + now.cancelled + now.shed <= 5
    async with asyncio.timeout(5), limiter.slot(), limiter.slot():
        pass


async def test_an_abandoned_coroutine_gives_its_place_back() -> None:
    """A task that is thrown away (closed, not cancelled) must not keep a slot or a place."""
    limiter = Limiter(1)
    async with limiter.slot():
        queued = limiter.slot().__aenter__()
        queued.send(None)
        assert limiter.statistics().waiting == 1
        queued.close()
    assert_idle(limiter)


async def test_a_larger_capacity_lets_waiters_in_at_once() -> None:
    limiter, leave, inside = Limiter(1), asyncio.Event(), list[int]()
    holders = [asyncio.create_task(hold(limiter, leave, inside, n)) for n in range(4)]
    await ticks()
    limiter.resize(3)
    await ticks()
    assert inside == [0, 1, 2]
    assert limiter.capacity == 3
    leave.set()
    await asyncio.gather(*holders)
    assert_idle(limiter)


async def test_a_smaller_capacity_takes_no_slot_away_but_gives_none_out() -> None:
    limiter, inside = Limiter(3), list[int]()
    leaves = [asyncio.Event() for _ in range(4)]
    holders = [asyncio.create_task(hold(limiter, leaves[n], inside, n)) for n in range(4)]
    await ticks()
    limiter.resize(1)
    assert limiter.statistics().in_use == 3
    for number, expected in ((0, 2), (1, 1), (2, 1)):
        leaves[number].set()
        await ticks()
        assert limiter.statistics().in_use == expected
    assert inside == [0, 1, 2, 3]
    leaves[3].set()
    await asyncio.gather(*holders)
    assert_idle(limiter)


async def test_ten_thousand_cancelled_waiters_leave_no_tombstones_behind() -> None:
    limiter = Limiter(1000, max_wait=600)
    async with AsyncExitStack() as held:
        for _ in range(1000):
            await held.enter_async_context(limiter.slot())
        for _ in range(10):
            waiters = [asyncio.create_task(limiter.slot().__aenter__()) for _ in range(1000)]
            await ticks(1)
            for waiter in waiters:
                waiter.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)
            assert len(limiter._line.waiters or ()) <= 64
    assert limiter.statistics().cancelled == 10_000
    assert_idle(limiter)


def test_one_limiter_made_before_any_loop_serves_one_loop_after_another() -> None:
    limiter = Limiter(1)

    async def crowd() -> None:
        leave, inside = asyncio.Event(), list[int]()
        holders = [asyncio.create_task(hold(limiter, leave, inside, n)) for n in range(3)]
        await ticks()
        leave.set()
        await asyncio.gather(*holders)

    async def cut_short() -> None:
        """`asyncio.run` cancels what still waits when the main coroutine has returned."""
        leave, inside = asyncio.Event(), list[int]()
        cut.update(asyncio.create_task(hold(limiter, leave, inside, n)) for n in range(3))
        await ticks()

    cut = set[asyncio.Task[None]]()
    for main in (crowd, cut_short, crowd):
        asyncio.run(main())
        assert_idle(limiter)


@pytest.mark.parametrize(
    ("argument", "make"),
    [
        ("capacity", lambda: Limiter(0)),
        ("capacity", lambda: Limiter(-1)),
        ("capacity", lambda: Limiter(2.5)),  # type: ignore[arg-type]
        ("capacity", lambda: Limiter(True)),
        ("capacity", lambda: Limiter(3).resize(0)),
        ("target_wait", lambda: Limiter(1, target_wait=-0.1)),
        ("target_wait", lambda: Limiter(1, target_wait=math.inf)),
        ("max_wait", lambda: Limiter(1, max_wait=-0.1)),
        ("max_wait", lambda: Limiter(1, max_wait=math.nan)),
        ("max_wait", lambda: Limiter(1, max_wait=math.inf)),
        ("max_wait", lambda: Limiter(1, max_wait="1")),  # type: ignore[arg-type]
    ],
)
def test_a_bad_number_is_refused_by_its_name(argument: str, make: Callable[[], object]) -> None:
    with pytest.raises(InvalidSetting, match=rf"^\w+\({argument}=.*\) must be "):
        make()
