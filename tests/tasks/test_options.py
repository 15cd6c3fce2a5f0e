"""What `options` adds to `spawn`: a name, a timeout, and another end at the drain."""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

import pytest

from stormproof._core.events import Event, TaskFailed
from stormproof._core.lifecycle import Lifecycle
from stormproof.errors import DeadlineExceeded, InvalidSetting, TasksClosed
from stormproof.tasks import Tasks, TasksStatistics, UnfinishedTask
from tests.virtual_time import LoopClock, run_virtually, ticks

Scenario = Callable[[Tasks, Lifecycle], Coroutine[Any, Any, None]]


def in_virtual_time(scenario: Scenario, **arguments: Any) -> None:
    async def main() -> None:
        lifecycle = Lifecycle(clock=LoopClock())
        tasks = Tasks(**arguments)
        await tasks.open(lifecycle)
        await scenario(tasks, lifecycle)
        await tasks.close()
        now = tasks.statistics()
        ends = now.finished + now.failed + now.cancelled + now.timed_out + now.handed_over
        assert (now.running, now.accepted) == (0, ends)

    run_virtually(main())


async def sleep_and_note(seconds: float, done: list[float]) -> None:
    await asyncio.sleep(seconds)
    done.append(seconds)


def test_each_receipt_has_an_id_of_its_own_and_the_name_that_was_given() -> None:
    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        mail = tasks.options(name="mail")
        handles = [mail.spawn(sleep_and_note, 1, []) for _ in range(100)]
        assert len({handle.id for handle in handles}) == 100
        assert {(handle.name, handle.state) for handle in handles} == {("mail", "running")}
        await asyncio.sleep(2)
        assert {handle.state for handle in handles} == {"finished"}

    in_virtual_time(scenario)


def test_the_receipt_says_how_the_task_ended() -> None:
    async def fail() -> None:
        raise LookupError

    async def give_up() -> None:
        raise asyncio.CancelledError

    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        handles = [tasks.spawn(fail), tasks.spawn(give_up), tasks.spawn(asyncio.sleep, 1)]
        await asyncio.sleep(2)
        assert [handle.state for handle in handles] == ["failed", "cancelled", "finished"]

    in_virtual_time(scenario)


def test_a_task_that_takes_too_long_is_cut_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    cleaned, heard = list[str](), list[Event]()

    async def clean_up_slowly() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.5)
            cleaned.append("yes")

    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        lifecycle.events.subscribe(heard.append)
        handle = tasks.options(timeout=5).spawn(clean_up_slowly)
        with pytest.raises(DeadlineExceeded, match=r"'clean_up_slowly' was not done .* of 5 s"):
            await handle.wait()
        assert (handle.state, cleaned) == ("timed_out", ["yes"])
        assert await tasks.drain(lifecycle.clock.now() + 60) == []
        assert tasks.statistics() == TasksStatistics(0, 0, 1, 0, 0, 0, timed_out=1)

    in_virtual_time(scenario)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == (
        "task 'clean_up_slowly' was cut 5.50 s after its start: "
        "TimeoutError('its timeout of 5 s was over')"
    )
    (event,) = [event for event in heard if isinstance(event, TaskFailed)]
    assert (event.name, event.age) == ("clean_up_slowly", 5.5)


def test_a_task_that_is_done_in_time_hears_nothing_of_its_timeout() -> None:
    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        handle = tasks.options(timeout=5).spawn(asyncio.sleep, 4, "done")
        assert await handle.wait() == "done"
        await asyncio.sleep(10)
        assert handle.state == "finished"

    in_virtual_time(scenario)


def test_a_task_that_swallows_its_timeout_is_a_loss_at_the_drain() -> None:
    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        enough = asyncio.Event()

        async def stubborn() -> None:
            while not enough.is_set():
                try:
                    await enough.wait()
                except asyncio.CancelledError:
                    continue

        handle = tasks.options(timeout=1, on_shutdown="handover").spawn(stubborn)
        await asyncio.sleep(2)
        (loss,) = await tasks.drain(lifecycle.clock.now() + 10)
        assert (loss.kind, loss.name, handle.state) == ("task", "stubborn", "running")
        enough.set()
        await ticks()
        assert handle.state == "timed_out", "it was too late, whatever it returned"

    in_virtual_time(scenario)


def test_what_may_be_cancelled_is_cancelled_first_and_is_no_loss() -> None:
    order = list[str]()

    async def warm_up() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(1)
            order.append("cancelled")

    async def work() -> None:
        await asyncio.sleep(5)
        order.append("done")

    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        warming = tasks.options(on_shutdown="cancel").spawn(warm_up)
        tasks.spawn(work)
        await ticks()
        began_at = lifecycle.clock.now()
        assert await tasks.drain(began_at + 60) == []
        assert lifecycle.clock.now() - began_at == pytest.approx(5), "both at once"
        assert order == ["cancelled", "done"]
        assert warming.state == "cancelled"
        with pytest.raises(TasksClosed, match="was cancelled before it was done"):
            await warming.wait()

    in_virtual_time(scenario)


def test_unfinished_work_that_nobody_takes_over_is_lost_and_named() -> None:
    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        handle = tasks.options(on_shutdown="handover").spawn(asyncio.sleep, 3600)
        await asyncio.sleep(3)
        began_at = lifecycle.clock.now()
        (loss,) = await tasks.drain(began_at + 60)
        assert lifecycle.clock.now() == began_at, "nobody waits for it"
        assert (loss.kind, loss.name, loss.age) == ("handover", "sleep", pytest.approx(3))
        assert handle.state == "cancelled"

    in_virtual_time(scenario)


class Store:
    """Somebody who takes unfinished tasks, as a queue of jobs would."""

    def __init__(self, *, refuses: str | None = None, takes: float = 0.5) -> None:
        self.taken: list[UnfinishedTask] = []
        self.calls = 0
        self._refuses = refuses
        self._takes = takes

    async def __call__(self, unfinished: Sequence[UnfinishedTask]) -> Collection[str]:
        self.calls += 1
        await asyncio.sleep(self._takes)
        taken = [task for task in unfinished if task.name != self._refuses]
        self.taken += taken
        return [task.id for task in taken]


def test_unfinished_work_is_handed_over_after_it_has_ended_here() -> None:
    order = list[str]()

    async def send(address: str, *, subject: str) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(1)
            order.append("ended here")

    store = Store()

    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        later = tasks.options(on_shutdown="handover")
        handle = later.spawn(send, "a@b", subject="Hi")
        quick = later.spawn(asyncio.sleep, 1)
        await asyncio.sleep(2)
        assert quick.state == "finished"
        assert await tasks.drain(lifecycle.clock.now() + 60) == []
        (task,) = store.taken
        assert order == ["ended here"]
        assert (task.id, task.name, task.origin) == (handle.id, "send", None)
        assert (task.function, task.args, task.kwargs) == (send, ("a@b",), {"subject": "Hi"})
        assert task.age == pytest.approx(3)
        assert handle.state == "handed_over"
        assert tasks.statistics() == TasksStatistics(0, 0, 2, 1, 0, 0, handed_over=1)
        with pytest.raises(TasksClosed, match="was given up by this service"):
            await handle.wait()

    in_virtual_time(scenario, handover=store)


def test_what_the_handover_does_not_take_is_lost() -> None:
    store = Store(refuses="no")

    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        for name in ("yes", "no", "yes"):
            tasks.options(name=name, on_shutdown="handover").spawn(asyncio.sleep, 3600)
        await ticks()
        losses = await tasks.drain(lifecycle.clock.now() + 60)
        assert [(loss.kind, loss.name) for loss in losses] == [("handover", "no")]
        assert store.calls == 1, "all in one call: one transaction can store them"

    in_virtual_time(scenario, handover=store)


@pytest.mark.parametrize("cause", ["raises", "hangs", "returns nothing"])
def test_a_handover_that_does_not_work_loses_nothing_silently(
    cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(unfinished: Sequence[UnfinishedTask]) -> Any:
        if cause == "raises":
            raise ConnectionError("the database is gone")
        if cause == "hangs":
            await asyncio.sleep(3600)

    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        handle = tasks.options(on_shutdown="handover").spawn(asyncio.sleep, 3600)
        await ticks()
        until = lifecycle.clock.now() + 10
        losses = await tasks.drain(until)
        assert lifecycle.clock.now() <= until
        assert [loss.kind for loss in losses] == ["handover"]
        assert handle.state == "cancelled"

    in_virtual_time(scenario, handover=broken)
    assert [record.getMessage() for record in caplog.records if record.levelno > 30] == [
        "the handover of 1 unfinished tasks failed"
    ]


def test_a_task_that_goes_on_is_not_handed_over_but_lost() -> None:
    """It would be done twice at the same time."""
    store = Store()

    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        enough = asyncio.Event()

        async def stubborn() -> None:
            while not enough.is_set():
                try:
                    await enough.wait()
                except asyncio.CancelledError:
                    continue

        handle = tasks.options(on_shutdown="handover").spawn(stubborn)
        await ticks()
        began_at = lifecycle.clock.now()
        (loss,) = await tasks.drain(began_at + 60)
        assert lifecycle.clock.now() - began_at == pytest.approx(5), "its cancel has a limit"
        assert (loss.kind, store.calls) == ("handover", 0)
        enough.set()
        await ticks()
        assert handle.state == "cancelled"

    in_virtual_time(scenario, handover=store)


def test_work_for_the_handover_that_comes_during_the_drain_is_handed_over_too() -> None:
    store = Store()

    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        async def import_file() -> None:
            await asyncio.sleep(5)
            tasks.options(on_shutdown="handover").spawn(asyncio.sleep, 3600)

        tasks.spawn(import_file)
        await ticks()
        assert await tasks.drain(lifecycle.clock.now() + 60) == []
        assert [task.name for task in store.taken] == ["sleep"]

    in_virtual_time(scenario, handover=store)


@pytest.mark.parametrize("after", [0.0, 0.5, 1.5, 3.0, 58.5, 59.5])
def test_a_drain_that_is_cancelled_names_what_was_not_handed_over(after: float) -> None:
    async def clean_up_slowly() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.8)

    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        handle = tasks.options(on_shutdown="handover").spawn(clean_up_slowly)
        tasks.options(on_shutdown="cancel").spawn(clean_up_slowly)
        tasks.spawn(clean_up_slowly)
        await ticks()
        drain = asyncio.create_task(tasks.drain(lifecycle.clock.now() + 60))
        await asyncio.sleep(after)
        drain.cancel()
        await asyncio.gather(drain, return_exceptions=True)
        await tasks.close()
        kinds = sorted(loss.kind for loss in lifecycle.losses)
        if handle.state == "handed_over":
            assert (after, kinds) == (after, ["task"])
        else:
            assert handle.state == "cancelled"
            assert kinds in (["handover", "task"], ["task", "task"])

    in_virtual_time(scenario, handover=Store(takes=1))


def test_options_say_by_name_what_is_wrong_with_them(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()
    caplog.set_level(logging.ERROR)
    with pytest.raises(InvalidSetting, match=r"options\(timeout=0\) .* above 0, or None"):
        tasks.options(timeout=0)
    with pytest.raises(InvalidSetting, match=r"options\(timeout='5'\) must be a finite number"):
        tasks.options(timeout="5")  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match=r"on_shutdown of options\(\) must be one of 'finish'"):
        tasks.options(on_shutdown="wait")  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match=r"Tasks\(max_running=0\) must be an int of 1 or more"):
        Tasks(max_running=0)
