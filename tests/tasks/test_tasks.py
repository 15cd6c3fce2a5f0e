import asyncio
import contextvars
import functools
import gc
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from stormproof._core.deadline import Deadline, in_force, remaining
from stormproof._core.events import Event, TaskFailed
from stormproof._core.lifecycle import Lifecycle, Loss, Part
from stormproof.errors import InvalidSetting, TasksClosed
from stormproof.tasks import Tasks, TasksStatistics
from tests.virtual_time import LoopClock, run_virtually, ticks


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    supervisor = Tasks()
    await supervisor.open(Lifecycle())
    yield supervisor
    await supervisor.close()
    assert supervisor._running == {}, "a task was left behind"


def in_a_minute() -> float:
    return time.monotonic() + 60


async def sleep_and_note(seconds: float, done: list[float]) -> None:
    await asyncio.sleep(seconds)
    done.append(seconds)


async def fail(after: asyncio.Event | None = None) -> None:
    if after is not None:
        await after.wait()
    raise LookupError("no such user")


def test_it_is_a_part_of_the_service() -> None:
    part: Part = Tasks("mail")
    assert part.name == "mail"


async def test_a_spawned_task_runs_and_its_result_can_be_waited_for(tasks: Tasks) -> None:
    async def double(number: int, *, plus: int = 0) -> int:
        await asyncio.sleep(0)
        return 2 * number + plus

    handle = tasks.spawn(double, 4, plus=1)
    assert (handle.name, handle.done()) == ("double", False)
    assert repr(handle) == "<TaskHandle 'double' running>"
    assert await handle.wait() == 9
    assert handle.done()
    assert tasks.statistics() == TasksStatistics(0, 0, 1, 1, 0, 0)


async def test_a_failure_is_logged_and_told_exactly_once(
    tasks: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    told, heard = list[dict[str, Any]](), list[Event]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    tasks._events.subscribe(heard.append)
    handle = tasks.spawn(fail)
    with pytest.raises(LookupError):
        await handle.wait()
    del handle
    gc.collect()
    await ticks()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("stormproof", logging.ERROR)
    assert re.match(r"task 'fail' failed \d+\.\d\d s after its start: Look", record.getMessage())
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError
    assert told == []
    (event,) = heard
    assert isinstance(event, TaskFailed)
    assert (event.name, event.error) == ("fail", "LookupError('no such user')")


async def test_a_failing_task_does_not_stop_the_others(tasks: Tasks) -> None:
    done, go = list[float](), asyncio.Event()
    tasks.spawn(fail, go)
    tasks.spawn(sleep_and_note, 0, done)
    tasks.spawn(fail, go)
    tasks.spawn(sleep_and_note, 0.001, done)
    go.set()
    assert await tasks.drain(in_a_minute()) == []
    assert done == [0, 0.001]
    assert tasks.statistics() == TasksStatistics(0, 0, 4, 2, 2, 0)


async def test_a_task_that_waits_only_on_objects_of_its_own_is_not_collected(tasks: Tasks) -> None:
    """A bare create_task in its place is destroyed by this gc.collect()."""
    ended = list[str]()

    async def wait_for_its_own() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    tasks.spawn(wait_for_its_own)
    await ticks()
    for _ in range(3):
        gc.collect()
        await ticks()
    assert ended == []
    assert tasks.statistics().running == 1


async def test_a_task_has_the_context_of_its_caller_but_not_its_deadline(tasks: Tasks) -> None:
    user = contextvars.ContextVar[str]("user")
    user.set("ada")

    async def look() -> tuple[str, float | None]:
        return user.get(), remaining()

    with in_force(Deadline(time.monotonic() + 5)):
        handle = tasks.spawn(look)
    assert await handle.wait() == ("ada", None)


async def test_a_caller_that_is_cancelled_while_it_waits_leaves_the_task_running(
    tasks: Tasks,
) -> None:
    done = list[float]()
    handle = tasks.spawn(sleep_and_note, 0.001, done)
    waiter = asyncio.create_task(handle.wait())
    await ticks()
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    assert await tasks.drain(in_a_minute()) == []
    assert done == [0.001]


async def test_waiting_for_a_cancelled_task_does_not_look_like_ones_own_cancellation(
    tasks: Tasks,
) -> None:
    handle = tasks.spawn(asyncio.sleep, 3600)
    await tasks.close()
    with pytest.raises(TasksClosed, match="task 'sleep' was cancelled before it was done"):
        await handle.wait()


async def test_ten_acknowledged_tasks_are_ten_done_after_the_drain(tasks: Tasks) -> None:
    done = list[float]()
    for number in range(10):
        tasks.spawn(sleep_and_note, number / 1000, done)
    assert await tasks.drain(in_a_minute()) == []
    assert len(done) == 10
    assert tasks.statistics() == TasksStatistics(0, 0, 10, 10, 0, 0)


async def test_a_task_spawned_during_the_drain_is_finished_too(tasks: Tasks) -> None:
    done = list[float]()

    async def spawn_another(levels: int) -> None:
        await asyncio.sleep(0)
        if levels:
            tasks.spawn(spawn_another, levels - 1)
        done.append(levels)

    tasks.spawn(spawn_another, 5)
    assert await tasks.drain(in_a_minute()) == []
    assert done == [5, 4, 3, 2, 1, 0]


def drained(scenario: Callable[[Tasks, LoopClock], Any]) -> Any:
    """Run a scenario on a virtual loop and check that it leaves no task behind."""

    async def main() -> Any:
        tasks, clock = Tasks(), LoopClock()
        await tasks.open(Lifecycle(clock=clock))
        result = await scenario(tasks, clock)
        await tasks.close()
        return result

    return run_virtually(main())


def test_the_drain_cuts_at_its_end_and_names_what_waited_where() -> None:
    async def report(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def scenario(tasks: Tasks, clock: LoopClock) -> None:
        tasks.spawn(report, 5)
        tasks.spawn(report, 3600)
        await asyncio.sleep(2)
        began_at = clock.now()
        (loss,) = await tasks.drain(began_at + 20)
        assert clock.now() - began_at == pytest.approx(19)  # 1 s is kept for clean-up
        line = report.__code__.co_firstlineno + 1
        assert loss == Loss("task", "report", loss.age, f"{__file__}:{line} in report")
        assert loss.age == pytest.approx(21)
        assert tasks.statistics() == TasksStatistics(0, 0, 2, 1, 0, 1)

    drained(scenario)


def test_a_task_that_is_cut_has_finished_its_clean_up_when_the_drain_returns() -> None:
    cleaned = list[str]()

    async def careful() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.5)
            cleaned.append("yes")

    async def scenario(tasks: Tasks, clock: LoopClock) -> None:
        tasks.spawn(careful)
        await ticks()
        until = clock.now() + 10
        assert len(await tasks.drain(until)) == 1
        assert cleaned == ["yes"]
        assert clock.now() <= until

    drained(scenario)


def test_a_task_that_swallows_its_cancellation_is_named_and_not_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def stubborn(enough: asyncio.Event) -> None:
        while not enough.is_set():
            try:
                await enough.wait()
            except asyncio.CancelledError:
                continue

    async def scenario(tasks: Tasks, clock: LoopClock) -> None:
        enough = asyncio.Event()
        tasks.spawn(stubborn, enough)
        await ticks()
        until = clock.now() + 10
        try:
            (loss,) = await tasks.drain(until)
            await tasks.close()
            assert clock.now() == pytest.approx(until), "close waited for it once more"
        finally:
            enough.set()
        await ticks()
        line = stubborn.__code__.co_firstlineno + 3
        assert (loss.name, loss.detail) == ("stubborn", f"{__file__}:{line} in stubborn")
        (message,) = [record.getMessage() for record in caplog.records]
        assert message == (
            f"task 'stubborn' ignores its cancellation at {__file__}:{line} in stubborn "
            "and was left behind"
        )

    drained(scenario)


def test_a_drain_whose_time_has_passed_cuts_at_once() -> None:
    async def scenario(tasks: Tasks, clock: LoopClock) -> None:
        tasks.spawn(asyncio.sleep, 3600)
        tasks.service(functools.partial(asyncio.sleep, 3600))
        await ticks()
        began_at = clock.now()
        assert [loss.name for loss in await tasks.drain(began_at - 5)] == ["sleep"]
        assert clock.now() == began_at

    drained(scenario)


def test_a_cancelled_drain_cancels_the_tasks_and_close_awaits_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cleaned = list[str]()

    async def careful() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.5)
            cleaned.append("yes")

    async def scenario(tasks: Tasks, clock: LoopClock) -> None:
        tasks.spawn(careful)
        drain = asyncio.create_task(tasks.drain(clock.now() + 60))
        await ticks()
        drain.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drain
        with pytest.raises(TasksClosed):
            tasks.spawn(careful)
        assert cleaned == []
        await tasks.close()
        assert cleaned == ["yes"]
        (message,) = [record.getMessage() for record in caplog.records]
        assert message == "task 'careful' was cancelled 0.50 s after its start"

    drained(scenario)


def test_a_cancelled_drain_cancels_at_once_and_still_names_what_it_cut() -> None:
    """A second signal cancels the drain, which can then return nothing."""

    async def clean_up_slowly() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.5)

    async def scenario(until: float, cancelled_after: float) -> None:
        tasks, lifecycle = Tasks(), Lifecycle(clock=LoopClock())
        await tasks.open(lifecycle)
        tasks.spawn(asyncio.sleep, 3600)
        tasks.spawn(clean_up_slowly)
        tasks.service(functools.partial(asyncio.sleep, 3600))
        drain = asyncio.create_task(tasks.drain(LoopClock().now() + until))
        await asyncio.sleep(cancelled_after)
        drain.cancel()
        await asyncio.gather(drain, return_exceptions=True)
        await asyncio.sleep(0.6)
        assert tasks._running == {}
        assert [loss.name for loss in lifecycle.losses] == ["sleep", "clean_up_slowly"]
        await tasks.close()

    run_virtually(scenario(60, 1))
    run_virtually(scenario(60, 59.2))  # in the middle of the clean-up after the cut


@pytest.mark.parametrize("tick", range(10))
def test_a_drain_cancelled_at_any_tick_leaves_nothing_running(tick: int) -> None:
    async def scenario(tasks: Tasks, clock: LoopClock) -> None:
        async def chain(levels: int) -> None:
            await asyncio.sleep(0)
            if levels:
                tasks.spawn(chain, levels - 1)

        tasks.spawn(chain, 3)
        tasks.service(functools.partial(asyncio.sleep, 3600))
        drain = asyncio.create_task(tasks.drain(clock.now() + 60))
        await ticks(tick)
        drain.cancel()
        await asyncio.gather(drain, return_exceptions=True)
        await tasks.close()
        now = tasks.statistics()
        assert (now.running, now.services) == (0, 0)
        assert now.accepted == now.finished + now.failed + now.cancelled

    drained(scenario)


def test_services_stop_after_the_last_task_and_are_no_loss() -> None:
    order = list[str]()

    async def poll() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            order.append("service stopped")

    async def scenario(tasks: Tasks, clock: LoopClock) -> None:
        async def work() -> None:
            await asyncio.sleep(3)
            order.append("task done")

        tasks.service(poll)
        tasks.spawn(work)
        await ticks()
        assert tasks.statistics() == TasksStatistics(1, 1, 1, 0, 0, 0)
        drain = asyncio.create_task(tasks.drain(clock.now() + 60))
        await ticks()
        with pytest.raises(TasksClosed, match="tasks 'tasks' are draining, so 'poll'"):
            tasks.service(poll)
        assert await drain == []
        assert order == ["task done", "service stopped"]
        assert tasks.statistics() == TasksStatistics(0, 0, 1, 1, 0, 0)

    drained(scenario)


def test_what_a_service_spawns_as_it_stops_is_finished_too() -> None:
    done = list[float]()

    async def scenario(tasks: Tasks, clock: LoopClock) -> None:
        async def batch() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                tasks.spawn(sleep_and_note, 4, done)

        tasks.service(batch)
        await ticks()
        assert await tasks.drain(clock.now() + 60) == []
        assert done == [4]

    drained(scenario)


async def test_a_service_that_fails_is_logged(
    tasks: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    handle = tasks.service(fail, restart="never")
    with pytest.raises(LookupError):
        await handle.wait()
    assert [record.getMessage()[:11] for record in caplog.records] == ["task 'fail'"]


async def test_before_opening_nothing_is_accepted_silently() -> None:
    tasks, done = Tasks("mail"), list[float]()
    with pytest.raises(
        TasksClosed, match="tasks 'mail' are not open yet, so 'sleep_and_"
    ) as caught:
        tasks.spawn(sleep_and_note, 0, done)
    assert (caught.value.status, caught.value.retry_after) == (503, 1.0)
    assert await tasks.drain(in_a_minute()) == []
    await tasks.close()


async def test_after_the_drain_nothing_is_accepted_silently(tasks: Tasks) -> None:
    await tasks.drain(in_a_minute())
    with pytest.raises(TasksClosed, match="are closed"):
        tasks.spawn(sleep_and_note, 0, [])
    assert await tasks.drain(in_a_minute()) == []


async def test_what_a_task_spawns_in_its_clean_up_after_the_cut_is_refused(tasks: Tasks) -> None:
    refused = list[BaseException]()

    async def last_words() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            try:
                tasks.spawn(sleep_and_note, 0, [])
            except TasksClosed as error:
                refused.append(error)

    tasks.spawn(last_words)
    await ticks()
    await tasks.drain(time.monotonic())
    assert len(refused) == 1


async def test_it_can_be_opened_again_after_it_was_closed(tasks: Tasks) -> None:
    await tasks.drain(in_a_minute())
    await tasks.close()
    await tasks.open()
    done = list[float]()
    await tasks.spawn(sleep_and_note, 0, done).wait()
    assert done == [0]


async def test_a_def_endpoint_spawns_from_its_thread(tasks: Tasks) -> None:
    ran_in = list[threading.Thread]()
    user = contextvars.ContextVar[str]("user")

    async def work() -> str:
        ran_in.append(threading.current_thread())
        return user.get()

    def endpoint() -> Any:
        user.set("ada")
        with in_force(Deadline(time.monotonic() + 5)):
            return tasks.spawn(work)

    handle = await asyncio.to_thread(endpoint)
    assert await handle.wait() == "ada"
    assert ran_in == [threading.current_thread()]


async def test_many_threads_spawn_while_it_drains_and_none_is_lost(tasks: Tasks) -> None:
    """Each spawn is either done in the end or was refused to its caller's face."""
    done, accepted, refused = list[float](), list[int](), list[int]()
    rounds = threading.Barrier(9)

    def endpoint(number: int) -> None:
        rounds.wait()
        for _ in range(20):
            try:
                tasks.spawn(sleep_and_note, 0, done)
                accepted.append(number)
            except TasksClosed:
                refused.append(number)

    threads = [threading.Thread(target=endpoint, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(rounds.wait)
    assert await tasks.drain(in_a_minute()) == []
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert len(accepted) + len(refused) == 160
    assert len(done) == len(accepted) == tasks.statistics().finished


async def test_a_thread_is_refused_after_the_drain(tasks: Tasks) -> None:
    await tasks.drain(in_a_minute())
    with pytest.raises(TasksClosed):
        await asyncio.to_thread(tasks.spawn, sleep_and_note, 0, [])


async def test_a_thread_is_refused_when_the_loop_does_not_answer(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stormproof.tasks._tasks._THREAD_WAIT", 0.01)
    errors, done = list[Exception](), list[float]()

    def endpoint() -> None:
        try:
            tasks.spawn(sleep_and_note, 0, done)
        except TasksClosed as error:
            errors.append(error)

    thread = threading.Thread(target=endpoint)
    thread.start()
    thread.join()  # this blocks the loop
    assert "its loop is blocked" in str(errors[0])
    await ticks()
    assert await tasks.drain(in_a_minute()) == []
    assert done == []
    assert tasks.statistics().accepted == 0


def test_a_spawn_after_its_loop_was_closed_is_refused() -> None:
    tasks = Tasks()
    asyncio.run(tasks.open())
    with pytest.raises(TasksClosed, match="so is their event loop"):
        tasks.spawn(sleep_and_note, 0, [])


def test_a_loop_that_ends_without_a_drain_says_what_it_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        tasks = Tasks()
        await tasks.open()
        tasks.spawn(asyncio.sleep, 3600)
        await ticks()

    asyncio.run(main())
    (message,) = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"task 'sleep' was cancelled \d+\.\d\d s after its start", message)


async def test_a_coroutine_in_place_of_the_function_is_refused_by_name(tasks: Tasks) -> None:
    with pytest.raises(InvalidSetting, match=r"write spawn\(fail, \.\.\.\) instead of spawn\(fail"):
        tasks.spawn(fail())  # type: ignore[arg-type]


async def test_a_function_that_is_not_async_is_refused_by_name(tasks: Tasks) -> None:
    with pytest.raises(InvalidSetting, match="'print' ran in place and returned NoneType"):
        tasks.spawn(print)  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="must be an async function, not 3"):
        tasks.spawn(3)  # type: ignore[arg-type]


async def test_wrong_arguments_are_the_callers_error_and_start_nothing(tasks: Tasks) -> None:
    with pytest.raises(TypeError):
        tasks.spawn(sleep_and_note)  # type: ignore[call-arg]
    assert tasks.statistics().accepted == 0


async def test_partials_lambdas_and_callable_objects_have_names(tasks: Tasks) -> None:
    class Sender:
        async def __call__(self) -> None: ...

    names = [
        tasks.spawn(functools.partial(functools.partial(sleep_and_note, 0), [])).name,
        tasks.spawn(lambda: sleep_and_note(0, [])).name,
        tasks.spawn(Sender()).name,
    ]
    assert [name.rpartition(".")[2] for name in names] == ["sleep_and_note", "<lambda>", "Sender"]
    await tasks.drain(in_a_minute())


async def test_rehearsal_names_what_runs_with_its_age_and_line(tasks: Tasks) -> None:
    gate = asyncio.Event()

    async def waits() -> None:
        await gate.wait()

    handle = tasks.spawn(waits)
    await asyncio.sleep(0)
    [loss] = tasks.rehearse().values()
    assert (loss.kind, "waits" in loss.name, "test_tasks.py" in loss.detail) == ("task", True, True)
    gate.set()
    await handle.wait()
    assert tasks.rehearse() == {}
