"""What a drain promises, told in virtual time: no test here waits for a real second."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from stormproof._core.lifecycle import Lifecycle, Loss, Phase
from stormproof.lifecycle import Drain
from stormproof.testing import HandClock, run_in_virtual_time

SCOPE = {"type": "http", "method": "GET", "path": "/slow", "headers": []}


class RecordingServer:
    """A server at the edge of the drain: it notes when it was told what."""

    def __init__(self, clock: HandClock, *, connections: int = 0) -> None:
        self.clock = clock
        self.connections = connections
        self.new_connections = 0
        self.stopped_at: float | None = None
        self.began_shutdown_at: float | None = None
        self.aborted: list[object] | None = None
        self.has_noted_loss = False

    def stop_listening(self) -> None:
        self.stopped_at = self.clock.now()

    def begin_shutdown(self) -> None:
        self.began_shutdown_at = self.clock.now()

    def has_connections(self) -> bool:
        return self.connections > 0

    def has_new_connections(self) -> bool:
        return self.new_connections > 0

    def abort_connections(self, tasks: Any) -> None:
        self.aborted = list(tasks)

    def note_loss(self) -> None:
        self.has_noted_loss = True


class RecordingPart:
    """A part that takes `seconds` to drain and then reports `losses`."""

    def __init__(self, name: str, seconds: float = 0.0, losses: Sequence[Loss] = ()) -> None:
        self.name = name
        self.seconds = seconds
        self.losses = losses
        self.until: float | None = None
        self.was_cancelled = False

    async def open(self, lifecycle: Lifecycle) -> None:
        """Nothing to open."""

    async def drain(self, until: float) -> Sequence[Loss]:
        self.until = until
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return self.losses

    async def close(self) -> None:
        """Nothing to close."""


class World:
    """A clock that starts at zero, a lifecycle in phase "ready", and its drain."""

    def __init__(self, *parts: RecordingPart, grace: float = 30.0, prestop: float = 5.0) -> None:
        self.clock = HandClock(0.0)
        self.lifecycle = Lifecycle(grace=grace, prestop=prestop, clock=self.clock)
        self.drain = Drain(self.lifecycle, parts)
        self.server = RecordingServer(self.clock)
        self.lifecycle.enter(Phase.READY)

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        run_in_virtual_time(main, clock=self.clock)

    async def request(self, seconds: float) -> None:
        with self.lifecycle.request(SCOPE):
            await asyncio.sleep(seconds)


def test_listener_stays_open_through_the_lame_duck() -> None:
    world = World(prestop=5.0)

    async def main() -> None:
        world.drain.begin(world.server)
        assert world.lifecycle.phase is Phase.DRAINING
        await asyncio.sleep(4.9)
        assert world.server.stopped_at is None
        await world.drain.finish()
        assert not world.drain.is_refusing  # uvicorn needs up to 0.1 s to close the listener
        await asyncio.sleep(0.5)
        assert world.drain.is_refusing

    world.run(main())
    assert world.server.stopped_at == pytest.approx(5.0, abs=0.05)
    assert world.lifecycle.phase is Phase.STOPPING


def test_client_that_connected_as_the_listener_closed_can_send_its_request() -> None:
    """Its connection is there and its request under way: closing it now would be a reset."""
    world = World(prestop=5.0)
    world.server.new_connections = 1

    async def main() -> None:
        world.drain.begin(world.server)
        await asyncio.sleep(5.2)
        assert world.server.stopped_at is not None
        assert world.server.began_shutdown_at is None
        world.server.new_connections = 0
        await world.drain.finish()

    world.run(main())
    assert world.server.began_shutdown_at == pytest.approx(5.2, abs=0.05)


def test_client_that_connects_and_sends_nothing_cannot_hold_the_drain() -> None:
    world = World(prestop=5.0)
    world.server.new_connections = 1

    async def main() -> None:
        world.drain.begin(world.server)
        await world.drain.finish()

    world.run(main())
    assert world.server.began_shutdown_at == pytest.approx(5.5, abs=0.05)


def test_request_in_flight_finishes_within_the_grace() -> None:
    world = World(prestop=1.0)
    ended: list[bool] = []

    async def main() -> None:
        request = asyncio.create_task(world.request(10.0))
        request.add_done_callback(lambda task: ended.append(task.cancelled()))
        await asyncio.sleep(0)
        world.drain.begin(world.server)
        await world.drain.finish()
        await request

    world.run(main())
    assert ended == [False]
    assert world.lifecycle.losses == []
    assert world.clock.now() == pytest.approx(10.0, abs=0.05)


def test_request_longer_than_its_share_is_cut_and_reported() -> None:
    world = World(grace=20.0, prestop=1.0)

    async def main() -> None:
        request = asyncio.create_task(world.request(3600.0))
        await asyncio.sleep(0)
        world.drain.begin(world.server)
        await world.drain.finish()
        assert request.cancelled()

    world.run(main())
    [loss] = world.lifecycle.losses
    assert (loss.kind, loss.name) == ("request", "GET /slow")
    assert loss.age == pytest.approx(15.0, abs=0.05)  # 75 % of the grace
    assert loss.detail.endswith("in request")  # the function that waited
    assert not world.server.has_noted_loss
    world.drain.report()
    assert world.server.has_noted_loss
    assert world.server.aborted == []


def test_request_that_swallows_its_cancellation_cannot_hold_the_drain() -> None:
    world = World(grace=20.0, prestop=0.0)

    async def stubborn() -> None:
        with world.lifecycle.request(SCOPE):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                await asyncio.sleep(100)

    async def main() -> None:
        request = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        world.drain.begin(world.server)
        await world.drain.finish()
        assert world.clock.now() < 20.0
        assert world.server.aborted == [request]
        request.cancel()
        await asyncio.wait([request])

    world.run(main())


def test_server_that_is_held_up_without_a_request_is_freed() -> None:
    """A reader that stalls keeps its connection, although its response is all handed over."""
    world = World(grace=10.0, prestop=0.0)
    world.server.connections = 1

    async def main() -> None:
        world.drain.begin(world.server)
        await asyncio.sleep(7.0)
        assert world.server.aborted is None
        await asyncio.sleep(0.6)
        assert world.server.aborted == []
        await world.drain.finish()

    world.run(main())
    assert world.lifecycle.losses == []


def test_streams_leave_one_after_another() -> None:
    world = World(prestop=0.0)
    left_at: list[float] = []

    async def subscriber() -> None:
        with world.lifecycle.stream("GET /stream") as place:
            await place.leave.wait()
            left_at.append(world.clock.now())

    async def main() -> None:
        subscribers = [asyncio.create_task(subscriber()) for _ in range(50)]
        await asyncio.sleep(0)
        world.drain.begin(world.server)
        await world.drain.finish()
        await asyncio.gather(*subscribers)

    world.run(main())
    assert len(set(left_at)) == 50
    assert left_at[-1] - left_at[0] >= 0.95
    assert world.server.stopped_at is not None
    assert world.server.stopped_at >= left_at[-1]


def test_idle_connection_is_kept_for_a_second_after_the_drain_began() -> None:
    world = World(prestop=0.1)
    world.server.connections = 1

    async def main() -> None:
        world.drain.begin(world.server)
        await world.drain.finish()

    world.run(main())
    assert world.server.stopped_at == pytest.approx(1.0, abs=0.05)


def test_parts_drain_in_reverse_order_and_their_losses_are_kept() -> None:
    lost = Loss("task", "mail", 1.5, "cut")
    first, second = RecordingPart("database"), RecordingPart("tasks", 2.0, [lost])
    world = World(first, second, prestop=0.0)

    async def main() -> None:
        await world.drain.finish()

    world.run(main())
    assert second.until == first.until == pytest.approx(27.0)
    assert world.lifecycle.losses == [lost]
    assert world.clock.now() == pytest.approx(2.0, abs=0.05)


def test_part_that_does_not_drain_in_time_is_cancelled_and_reported() -> None:
    part = RecordingPart("tasks", 3600.0)
    world = World(part, grace=10.0, prestop=0.0)

    async def main() -> None:
        await world.drain.finish()

    world.run(main())
    assert part.was_cancelled
    assert [(loss.kind, loss.name) for loss in world.lifecycle.losses] == [("part", "tasks")]
    assert world.clock.now() < 10.0


def test_part_that_fails_to_drain_does_not_keep_the_others_from_it() -> None:
    class BrokenPart(RecordingPart):
        async def drain(self, until: float) -> Sequence[Loss]:
            raise RuntimeError("no")

    other = RecordingPart("database")
    world = World(other, BrokenPart("broken"), prestop=0.0)

    async def main() -> None:
        await world.drain.finish()

    world.run(main())
    assert other.until is not None
    assert [loss.name for loss in world.lifecycle.losses] == ["broken"]


def test_second_signal_cuts_everything_within_a_second() -> None:
    part = RecordingPart("tasks", 3600.0)
    world = World(part, prestop=5.0)
    cleaned_up: list[float] = []

    async def request() -> None:
        with world.lifecycle.request(SCOPE):
            try:
                await asyncio.sleep(3600)
            finally:
                cleaned_up.append(world.clock.now())

    async def main() -> None:
        task = asyncio.create_task(request())
        await asyncio.sleep(0)
        world.drain.begin(world.server)
        finish = asyncio.create_task(world.drain.finish())
        await asyncio.sleep(2.0)
        world.drain.force()
        world.drain.force()
        await finish
        assert task.cancelled()

    world.run(main())
    assert cleaned_up == [pytest.approx(2.0, abs=0.05)]
    assert world.clock.now() <= 3.0
    assert part.was_cancelled


def test_drain_begun_twice_is_one_drain() -> None:
    world = World(prestop=1.0)
    phases: list[object] = []
    world.lifecycle.events.subscribe(phases.append)

    async def main() -> None:
        world.drain.begin(world.server)
        await asyncio.sleep(0.5)
        world.drain.begin(world.server)
        await world.drain.finish()

    world.run(main())
    assert world.clock.now() == pytest.approx(1.0, abs=0.05)
    assert [type(event).__name__ for event in phases] == ["PhaseEntered", "PhaseEntered"]


def test_cancelled_finish_leaves_no_task_behind() -> None:
    world = World(prestop=5.0)

    async def main() -> None:
        finish = asyncio.create_task(world.drain.finish())
        await asyncio.sleep(0.1)
        with world.lifecycle.request(SCOPE):
            await asyncio.sleep(1.0)
            finish.cancel()
            await asyncio.wait([finish])
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert others == set()

    world.run(main())


def test_answered_request_is_a_loss_only_when_it_was_a_success() -> None:
    """Work after a 200 (a background task) was acknowledged; after a 504 nothing was."""
    world = World(grace=10.0, prestop=0.0)

    async def answered(status: int) -> None:
        with world.lifecycle.request(SCOPE) as entry:
            entry.status = status
            entry.is_answered = True
            await asyncio.sleep(3600)

    async def main() -> None:
        tasks = [asyncio.create_task(answered(status)) for status in (200, 504)]
        await asyncio.sleep(0)
        await world.drain.finish()
        await asyncio.wait(tasks)

    world.run(main())
    assert [loss.kind for loss in world.lifecycle.losses] == ["background"]


def test_service_that_was_not_ready_yet_has_no_lame_duck() -> None:
    world = World(prestop=5.0)
    world.lifecycle.restart()

    async def main() -> None:
        world.drain.begin(world.server)
        await world.drain.finish()

    world.run(main())
    assert world.clock.now() < 1.0


def test_drain_that_nobody_finishes_is_abandoned_without_a_task() -> None:
    """A part's start has failed: the lifespan never comes to its end."""
    world = World(prestop=5.0)

    async def main() -> None:
        world.drain.begin(world.server)
        await asyncio.sleep(1.0)
        await world.drain.abandon()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    world.run(main())


def test_second_life_drains_like_the_first() -> None:
    world = World(prestop=1.0)

    async def main() -> None:
        for _ in range(2):
            world.drain.begin(world.server)
            world.drain.begin(world.server)  # harmless
            await world.drain.finish()
            assert world.lifecycle.phase is Phase.STOPPING
            world.lifecycle.restart()
            world.drain.restart()
            world.lifecycle.enter(Phase.READY)

    world.run(main())
    assert world.lifecycle.losses == []


def test_teardown_of_the_app_that_hangs_is_cut_with_the_grace() -> None:
    """Its own lifespan spends from the same shutdown deadline, so that the parts still close."""
    world = World(grace=10.0, prestop=0.0)

    async def main() -> None:
        async with world.drain.bounded_teardown():
            world.drain.begin(world.server)
            await world.drain.finish()
            await asyncio.sleep(3600.0)

    world.run(main())
    assert world.clock.now() == pytest.approx(9.0, abs=0.1)
    assert [(loss.kind, loss.name) for loss in world.lifecycle.losses] == [("part", "lifespan")]


def test_second_signal_forces_the_teardown_of_the_app() -> None:
    world = World(grace=100.0, prestop=0.0)

    async def main() -> None:
        async with world.drain.bounded_teardown():
            world.drain.begin(world.server)
            await world.drain.finish()
            asyncio.get_running_loop().call_later(1.0, world.drain.force)
            await asyncio.sleep(3600.0)

    world.run(main())
    assert world.clock.now() < 3.0
    assert [loss.name for loss in world.lifecycle.losses] == ["lifespan"]


def test_timeout_of_the_teardown_itself_is_not_taken_for_ours() -> None:
    world = World(prestop=0.0)

    async def torn_down() -> None:
        async with world.drain.bounded_teardown():
            world.drain.begin(world.server)
            await world.drain.finish()
            raise TimeoutError("the app's own")

    async def main() -> None:
        with pytest.raises(TimeoutError, match="the app's own"):
            await torn_down()

    world.run(main())
    assert world.lifecycle.losses == []
