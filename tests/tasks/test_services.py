"""Services: endless work that is started again, and whose giving up turns readiness to 503."""

import asyncio
import functools
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from stormproof._core.events import Event, ReadinessLost, ReadinessRegained, TaskFailed
from stormproof._core.lifecycle import Lifecycle, Phase
from stormproof.errors import InvalidSetting
from stormproof.lifecycle._health import health_answer
from stormproof.tasks import Tasks, TasksStatistics
from tests.virtual_time import LoopClock, run_virtually, ticks

Scenario = Callable[[Tasks, Lifecycle], Coroutine[Any, Any, None]]


def in_virtual_time(scenario: Scenario) -> list[Event]:
    heard = list[Event]()

    async def main() -> None:
        lifecycle = Lifecycle(clock=LoopClock())
        lifecycle.events.subscribe(heard.append)
        tasks = Tasks()
        await tasks.open(lifecycle)
        lifecycle.enter(Phase.READY)
        await scenario(tasks, lifecycle)
        await tasks.drain(lifecycle.clock.now() + 60)
        await tasks.close()
        assert tasks.statistics() == TasksStatistics(0, 0, 0, 0, 0, 0)

    run_virtually(main())
    return heard


class Poller:
    """Runs as long as each of `lasts` says, then fails; after the last it runs for ever."""

    def __init__(self, *lasts: float) -> None:
        self.started_at: list[float] = []
        self._lasts = list(lasts)

    async def __call__(self) -> None:
        self.started_at.append(asyncio.get_running_loop().time())
        if not self._lasts:
            await asyncio.Event().wait()
        await asyncio.sleep(self._lasts.pop(0))
        raise ConnectionError("no broker at 10.1.2.3")

    @property
    def pauses(self) -> list[float]:
        return [b - a for a, b in zip(self.started_at, self.started_at[1:], strict=False)]


def readiness(lifecycle: Lifecycle) -> tuple[int, Any]:
    status, body = health_answer("/readyz", lifecycle)
    return status, json.loads(body)


def test_a_service_that_fails_is_started_again_after_ever_longer_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    poller = Poller(0, 0, 0, 0)

    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        handle = tasks.service(poller, name="poll", backoff=2)
        await asyncio.sleep(100)
        assert (handle.name, handle.state, handle.done()) == ("poll", "running", False)
        assert readiness(lifecycle) == (200, {"status": "ok", "phase": "ready"})
        for pause, longest in zip(poller.pauses, (2, 4, 8, 16), strict=True):
            assert longest / 2 <= pause <= longest

    heard = in_virtual_time(scenario)
    assert sum(isinstance(event, TaskFailed) for event in heard) == 4
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 4
    assert messages[0].startswith(
        "task 'poll' failed 0.00 s after its start: ConnectionError('no broker at 10.1.2.3'); "
        "restart 1 of 5 in a row follows in "
    )


def test_no_pause_is_longer_than_half_a_minute() -> None:
    poller = Poller(*[0] * 50)

    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        tasks.service(poller, max_restarts=None)
        await asyncio.sleep(2000)
        assert max(poller.pauses) <= 30
        assert len(poller.pauses) == 50
        assert lifecycle.is_ready

    in_virtual_time(scenario)


def test_a_service_that_gives_up_turns_readiness_to_503_and_says_why() -> None:
    poller = Poller(0, 0, 0, 0)

    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        handle = tasks.service(poller, name="poll", max_restarts=2)
        with pytest.raises(ConnectionError):
            await handle.wait()
        assert (handle.state, len(poller.started_at)) == ("failed", 3)
        assert readiness(lifecycle) == (
            503,
            {
                "status": "unavailable",
                "phase": "ready",
                "reasons": {
                    "service 'poll'": "failed 3 times in a row, last: ConnectionError"
                },  # not its text, which holds an address
            },
        )
        assert health_answer("/livez", lifecycle)[0] == 200
        lifecycle.declare_ready("service 'poll'")
        assert readiness(lifecycle)[0] == 200

    heard = in_virtual_time(scenario)
    assert [event.name for event in heard if isinstance(event, ReadinessLost)] == ["service 'poll'"]
    assert [type(event) for event in heard].count(ReadinessRegained) == 1


def test_a_minute_of_work_ends_the_row_of_failures() -> None:
    poller = Poller(0, 0, 61, 0, 0)

    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        tasks.service(poller, max_restarts=3)
        await asyncio.sleep(200)
        assert len(poller.started_at) == 6
        assert lifecycle.is_ready

    in_virtual_time(scenario)


def test_a_new_life_of_the_app_begins_ready() -> None:
    async def main() -> None:
        lifecycle = Lifecycle()
        lifecycle.declare_unready("service 'poll'", "failed")
        lifecycle.restart()
        lifecycle.enter(Phase.READY)
        assert lifecycle.is_ready

    asyncio.run(main())


def test_one_that_must_not_be_restarted_ends_with_its_first_failure() -> None:
    poller = Poller(0)

    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        handle = tasks.service(poller, restart="never")
        with pytest.raises(ConnectionError):
            await handle.wait()
        assert len(poller.started_at) == 1
        assert lifecycle.is_ready, "nobody said that the service cannot do without it"

    in_virtual_time(scenario)


@pytest.mark.parametrize(("restart", "runs"), [("on_failure", 1), ("never", 1), ("always", 20)])
def test_one_that_returns_is_started_again_only_if_always(restart: Any, runs: int) -> None:
    begun = list[int]()

    async def one_batch() -> None:
        begun.append(1)
        if len(begun) == 20:
            await asyncio.Event().wait()

    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        tasks.service(one_batch, restart=restart, max_restarts=3)
        await asyncio.sleep(100)
        assert len(begun) == runs
        assert lifecycle.is_ready

    in_virtual_time(scenario)


def test_a_cancellation_inside_it_is_a_failure_and_not_its_end() -> None:
    """A connection's own task was cancelled; the one that polls it was not."""
    runs = list[int]()

    async def poll() -> None:
        runs.append(1)
        raise asyncio.CancelledError

    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        handle = tasks.service(poll, max_restarts=1)
        with pytest.raises(RuntimeError, match="what it waited for was cancelled"):
            await handle.wait()
        assert (len(runs), handle.state, lifecycle.is_ready) == (2, "failed", False)

    in_virtual_time(scenario)


@pytest.mark.parametrize("tick", range(8))
def test_one_that_is_cancelled_in_its_pause_or_its_run_is_not_started_again(tick: int) -> None:
    poller = Poller(0)

    async def scenario(tasks: Tasks, lifecycle: Lifecycle) -> None:
        tasks.service(poller)
        await ticks(tick)
        assert await tasks.drain(lifecycle.clock.now() + 60) == []
        runs = len(poller.started_at)
        await asyncio.sleep(100)
        assert len(poller.started_at) == runs

    in_virtual_time(scenario)


async def test_options_of_a_service_say_by_name_what_is_wrong() -> None:
    tasks, poller = Tasks(), Poller()
    with pytest.raises(InvalidSetting, match=r"restart of service\(\) must be one of 'never', "):
        tasks.service(poller, restart="no")  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match=r"service\(backoff=0\) must be a finite number"):
        tasks.service(poller, backoff=0)
    with pytest.raises(InvalidSetting, match=r"service\(max_restarts=-1\) must be an int of 0"):
        tasks.service(poller, max_restarts=-1)
    with pytest.raises(InvalidSetting, match=r"write service\(sleep, \.\.\.\)"):
        tasks.service(asyncio.sleep(1))  # type: ignore[arg-type]
    await tasks.open()
    handle = tasks.service(functools.partial(asyncio.sleep, 3600))
    assert handle.name == "sleep"
    await tasks.close()
