"""No more than `max_running` tasks run at once, and no place is ever lost."""

import asyncio
import functools
import threading

import pytest

from stormproof._core.events import Event, TaskRefused
from stormproof._core.lifecycle import Lifecycle
from stormproof.errors import InvalidSetting, TasksClosed, TasksFull
from stormproof.tasks import Tasks
from tests.virtual_time import ticks


async def opened(max_running: int) -> tuple[Tasks, list[Event]]:
    tasks, lifecycle, heard = Tasks("mail", max_running=max_running), Lifecycle(), list[Event]()
    lifecycle.events.subscribe(heard.append)
    await tasks.open(lifecycle)
    return tasks, heard


async def test_what_is_beyond_is_refused_with_503_and_not_queued() -> None:
    tasks, heard = await opened(2)
    go = asyncio.Event()
    tasks.spawn(go.wait)
    tasks.spawn(go.wait)
    with pytest.raises(TasksFull, match=r"tasks 'mail' are full \(2 of 2 running\), so ") as caught:
        tasks.spawn(go.wait)
    assert (caught.value.status, caught.value.code, caught.value.retry_after) == (503, "SP602", 1.0)
    assert heard == [TaskRefused("Event.wait", 2, 2)]
    go.set()
    await ticks()
    await tasks.spawn(go.wait).wait()
    now = tasks.statistics()
    assert (now.accepted, now.finished, now.refused) == (3, 3, 1)
    await tasks.close()


async def test_a_service_takes_no_place() -> None:
    tasks, _ = await opened(1)
    for _ in range(3):
        tasks.service(functools.partial(asyncio.sleep, 3600))
    await tasks.spawn(asyncio.sleep, 0).wait()
    await tasks.close()


async def test_a_call_that_could_not_start_gives_its_place_back() -> None:
    tasks, _ = await opened(1)
    for _ in range(3):
        with pytest.raises(TypeError):
            tasks.spawn(asyncio.sleep)  # type: ignore[call-arg]
        with pytest.raises(InvalidSetting):
            tasks.spawn(print)  # type: ignore[arg-type]
    await tasks.spawn(asyncio.sleep, 0).wait()
    await tasks.close()


async def test_a_promise_takes_a_place_until_it_is_started_or_dropped() -> None:
    tasks, _ = await opened(2)
    started, dropped = tasks.batch(), tasks.batch()
    started.add(asyncio.sleep, 0)
    dropped.add(asyncio.sleep, 0)
    with pytest.raises(TasksFull):
        tasks.spawn(asyncio.sleep, 0)
    with pytest.raises(TasksFull):
        started.add(asyncio.sleep, 0)
    dropped.drop()
    dropped.drop()
    (handle,) = started.start()
    assert started.start() == []
    assert tasks.statistics().running == 1
    await handle.wait()
    assert tasks._roll._promised == 0
    await tasks.close()


async def test_threads_that_come_at_once_never_get_more_places_than_there_are() -> None:
    tasks, heard = await opened(50)
    go, batch = asyncio.Event(), tasks.batch()
    refused = list[int]()
    barrier = threading.Barrier(9)

    def endpoint(number: int) -> None:
        barrier.wait()
        for _ in range(20):
            try:
                batch.add(go.wait)
            except TasksFull:
                refused.append(number)

    threads = [threading.Thread(target=endpoint, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(barrier.wait)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    handles = batch.start()
    assert (len(handles), len(refused), len(heard)) == (50, 110, 110)
    go.set()
    await tasks.drain(asyncio.get_running_loop().time() + 60)
    assert tasks.statistics().finished == 50
    await tasks.close()


async def test_nothing_can_be_promised_before_the_start_or_after_the_drain() -> None:
    tasks = Tasks()
    with pytest.raises(TasksClosed, match="are not open yet, so 'sleep' was not started"):
        tasks.batch().add(asyncio.sleep, 0)
    await tasks.open()
    await tasks.drain(0)
    with pytest.raises(TasksClosed, match="are closed"):
        tasks.batch().add(asyncio.sleep, 0)
    await tasks.close()


async def test_a_promise_that_can_no_longer_be_kept_is_a_loss(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks, lifecycle = Tasks(), Lifecycle()
    await tasks.open(lifecycle)
    batch = tasks.batch()
    batch.add(asyncio.sleep, 0)
    await tasks.drain(0)
    assert batch.start() == []
    assert [(loss.kind, loss.name) for loss in lifecycle.losses] == [("task", "sleep")]
    assert caplog.records[0].getMessage().startswith("task 'sleep' was promised and is lost")
    await tasks.close()


async def test_who_waited_for_a_task_can_spawn_the_next_in_its_place() -> None:
    """Each place is free again at the latest when the receipt says that the task has ended."""
    tasks, _ = await opened(1)
    for _ in range(100):
        await tasks.spawn(asyncio.sleep, 0).wait()
    await tasks.close()
