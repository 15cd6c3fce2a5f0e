"""What a hub promises, played by hand: the clients' side of ASGI, the bus, and the clock."""

import asyncio
import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.websockets import WebSocketDisconnect

from stormproof._core.deadline import Deadline, in_force
from stormproof._core.events import BusLost, BusRegained, Event, EventsDropped
from stormproof._core.lifecycle import Lifecycle, Phase
from stormproof.errors import BusUnavailable, InvalidSetting, NotStarted
from stormproof.stream import Entry, HistoryLost, Hub, MemoryBus, Position, Published, _feed
from stormproof.testing import HandClock, run_in_virtual_time

from .clients import Client, in_virtual_time, settle
from .serving import reasons


class BrittleBus(MemoryBus):
    """A bus that can be down, and that can lose its history."""

    def __init__(self, *, keep: int = 1000) -> None:
        super().__init__(keep=keep)
        self.is_down = False

    def cut(self) -> None:
        """Break, also the read that waits."""
        self.is_down = True
        for reader in self._readers:
            reader.set_exception(ConnectionResetError("the bus is gone"))

    def begin_anew(self) -> None:
        """Be another store, with nothing in it."""
        self._epoch = "anew"
        self._last = 0
        self._entries.clear()

    async def append(self, entry: Entry) -> Position:
        self._check()
        return await super().append(entry)

    async def read(self, after: Position, *, limit: int, wait: float) -> Sequence[Entry]:
        self._check()
        return await super().read(after, limit=limit, wait=wait)

    async def tail(self) -> Position:
        self._check()
        return await super().tail()

    def _check(self) -> None:
        if self.is_down:
            raise ConnectionRefusedError("the bus is down")


async def publish(hub: Hub, *data: Any, **fields: Any) -> None:
    for one in data:
        await hub.publish("t", one, **fields)


# Happy ----------------------------------------------------------------------------------------


async def test_event_is_encoded_once_and_comes_to_the_subscribers_of_its_topic() -> None:
    hub = Hub()
    one, two, other = Client(hub), Client(hub), Client(hub)
    async with hub:
        one.connect()
        two.connect(["t", "u"])
        other.connect(["u"])
        await settle()
        await hub.publish("t", {"id": 1}, event="created", key="k")
        await hub.publish("u", "a\nb")
        await settle()
        assert (one.data, two.data, other.data) == (['{"id":1}'], ['{"id":1}', "a\nb"], ["a\nb"])
        assert one.events[-1].event == "created"
        assert one.messages[-1]["body"] is two.messages[-2]["body"]  # shared, not copied
        assert hub.statistics().delivered == 4
        for client in (one, two, other):
            await client.leave()
    assert len(asyncio.all_tasks()) == 1


async def test_filter_chooses_and_changes_and_equal_changes_are_encoded_once() -> None:
    hub = Hub()

    def for_user(event: Published) -> bool | str:
        if event.json()["secret"]:
            return False
        return "hidden" if event.key == "hide" else True

    clients = [Client(hub), Client(hub)]
    async with hub:
        for client in clients:
            client.connect(filter=for_user)
        await settle()
        await publish(hub, {"secret": True}, {"secret": False})
        await publish(hub, {"secret": False}, key="hide")
        await settle()
        for client in clients:
            assert client.data == ['{"secret":false}', "hidden"]
        assert clients[0].messages[-1]["body"] is clients[1].messages[-1]["body"]
        for client in clients:
            await client.leave()


async def test_stream_is_complete_after_the_event_that_ends_it() -> None:
    lifecycle, hub = Lifecycle(), Hub()
    with reasons(lifecycle) as seen:
        async with hub:
            live, late = Client(hub, lifecycle), Client(hub, lifecycle)
            live.connect(ends_on="done")
            await settle()
            await publish(hub, "token")
            await publish(hub, "", "too late", event="done")
            await live.task  # type: ignore[misc]
            late.last_id = live.events[0].id
            await late.connect(ends_on="done", resumes=True)
    for client in (live, late):
        assert client.is_complete
        assert [event.event for event in client.events[1:]] == [None, "done"]
    assert seen == ["finished", "finished"]


async def test_without_open_the_bus_is_read_while_there_are_subscribers() -> None:
    hub, client = Hub(), Client(Hub())
    client.hub = hub
    client.connect()
    await settle()
    await publish(hub, "x")
    await settle()
    assert client.data == ["x"]
    await client.leave()
    assert len(asyncio.all_tasks()) == 1


async def test_flood_of_a_publisher_that_never_waits_loses_nothing() -> None:
    """The ring holds 10 events: without a brake the reader would find the rest trimmed."""
    hub = Hub(replay=10)
    client = Client(hub)
    async with hub:
        client.connect()
        await settle()
        await publish(hub, *map(str, range(500)))
        await settle()
        assert client.data == [str(number) for number in range(500)]
        assert not client.names
        await client.leave()


# Resume ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["nonsense", "e-", "-1", "e-1-2", "0-99999999999999999999", "é-1"])
async def test_id_that_is_none_of_this_log_is_told_and_no_error(text: str) -> None:
    hub = Hub()
    async with hub:
        await publish(hub, "before")
        client = Client(hub)
        client.connect(last_event_id=text)
        await settle()
        await publish(hub, "after")
        await settle()
        assert client.names == ["reset"]
        assert client.data == ["after"]
        await client.leave()


async def test_history_that_was_trimmed_is_told_and_what_is_left_is_not_replayed_alone() -> None:
    hub, client = Hub(replay=2), Client(Hub())
    client.hub = hub
    async with hub:
        client.connect()
        await settle()
        await client.leave()
        await publish(hub, *"abcde")
        client.connect(resumes=True)
        await settle()
        await publish(hub, "f")
        await settle()
        assert client.names == ["reset"]
        assert client.data == ["f"]
        await client.leave()


async def test_client_that_comes_from_a_process_that_was_ahead_gets_nothing_twice() -> None:
    class Lagging(MemoryBus):
        """Shares the log of another; its reader sees what `sees` allows."""

        def __init__(self, log: MemoryBus) -> None:
            super().__init__()
            self.log, self.sees = log, 0

        async def read(self, after: Position, *, limit: int, wait: float) -> Sequence[Entry]:
            while after.offset >= self.sees:
                await asyncio.sleep(0)
            return await self.log.read(after, limit=self.sees - after.offset, wait=0)

        async def tail(self) -> Position:
            return await self.log.tail()

    log = MemoryBus()
    ahead, behind = Hub(log), Hub(Lagging(log))
    bus: Any = behind._bus
    async with behind, ahead:
        client, invented = Client(ahead), Client(behind)
        client.connect()
        await settle()
        await publish(ahead, "a", "b")
        await settle()
        await client.leave()
        client.hub = behind
        client.connect(resumes=True)
        invented.last_id = str(Position(str(client.last_id).partition("-")[0], 99))
        invented.connect(resumes=True)
        await settle()
        bus.sees = 2
        await publish(ahead, "c")
        await settle()
        bus.sees = 3
        await settle()
        assert client.data == ["a", "b", "c"]
        assert not client.names
        assert invented.names == ["reset"]
        await client.leave()
        await invented.leave()


async def test_client_ahead_with_an_id_that_a_restored_store_has_lost_is_told() -> None:
    """The store came back without 6 to 10 and gave on from 100; this process is behind."""

    class Restored(MemoryBus):
        is_read = asyncio.Event()
        last = 5

        async def tail(self) -> Position:
            return Position("e", self.last)

        async def read(self, after: Position, *, limit: int, wait: float) -> Sequence[Entry]:
            if wait:
                await self.is_read.wait()
                self.is_read.clear()
            if after.offset not in (5, 100, 101):
                raise HistoryLost(f"{after} was lost")
            return [Entry("t", str(at), offset=at) for at in (100, 101) if at > after.offset]

    bus = Restored()
    hub = Hub(bus)
    client, known = Client(hub), Client(hub)
    async with hub:
        bus.last = 101
        client.connect(last_event_id="e-8")
        known.connect(last_event_id="e-100")
        await settle()
        bus.is_read.set()
        await settle()
        assert client.names == ["reset"]
        assert (known.names, known.data) == ([], ["101"])
        await client.leave()
        await known.leave()


@in_virtual_time
async def test_heartbeat_moves_the_id_on_for_who_hears_little(clock: HandClock) -> None:
    hub = Hub(replay=3, heartbeat=10)
    client = Client(hub)
    async with hub:
        client.connect(["quiet"])
        await settle()
        await publish(hub, *"abcdefg")
        await asyncio.sleep(11)
        assert [event.comment for event in client.events[1:]] == ["keep-alive"]
        await client.leave()
        await hub.publish("quiet", "x")
        client.connect(["quiet"], resumes=True)
        await settle()
        assert client.data == ["x"]
        assert not client.names
        await client.leave()


def test_heartbeat_in_the_middle_of_a_fan_out_does_not_claim_the_event_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_feed, "SLICE", -1.0)
    monkeypatch.setattr(_feed, "_LOOK_EVERY", 1)
    clock = HandClock()

    async def main() -> None:
        hub = Hub(heartbeat=10)
        clients = [Client(hub) for _ in range(20)]
        async with hub:
            for client in clients:
                client.connect()
            await settle(100)
            await publish(hub, "x")
            while not clients[0].data:
                await asyncio.sleep(0)
            clock.turn(20)  # all heartbeats are due, and most have not got the event
            for _ in range(3):
                await asyncio.sleep(0)
            for client in clients:
                assert client.task is not None
                client.task.cancel()
            await asyncio.wait([client.task for client in clients if client.task])
            assert any(event.comment for client in clients for event in client.events)
            assert not all(client.data for client in clients)
            for client in clients:
                client.connect(resumes=True)
            await settle(100)
            for client in clients:
                assert client.data == ["x"]
                await client.leave()

    run_in_virtual_time(main(), clock=clock)


# Slow readers ---------------------------------------------------------------------------------


async def test_slow_reader_is_told_exactly_what_was_dropped_and_others_do_not_wait() -> None:
    lifecycle = Lifecycle()
    told: list[Event] = []
    lifecycle.events.subscribe(told.append)
    hub = Hub(queue_frames=2)
    slow, quick = Client(hub, lifecycle), Client(hub)
    await hub.open(lifecycle)
    slow.connect()
    quick.connect()
    await settle()
    slow.stall()
    for one in "abcdef":
        await publish(hub, one)
        await settle()
    assert quick.data == list("abcdef")
    assert hub.statistics().dropped == 3
    slow.read_on()
    await settle()
    assert slow.data == ["a", "e", "f"]
    (gap,) = [json.loads(str(event.data)) for event in slow.events if event.event == "gap"]
    ids = [event.id for event in quick.events if event.data]
    assert gap == {"dropped": 3, "first": ids[1], "last": ids[3]}
    assert slow.events[2].event == "gap"  # before the next event
    assert EventsDropped("GET /events", 3) in told
    await publish(hub, "g")
    await settle()
    assert slow.data[-1] == "g"  # and the fan-out sends for it again
    await slow.leave()
    await quick.leave()
    await hub.close()


async def test_coalescing_keeps_the_newest_of_each_key() -> None:
    hub = Hub(policy="coalesce")
    client = Client(hub)
    async with hub:
        client.connect()
        await settle()
        await publish(hub, "first", key="price")
        await settle()
        client.stall()
        await publish(hub, "sent")
        await settle()
        for number in range(5):
            await publish(hub, f"price {number}", key="price")
            await publish(hub, f"stock {number}", key="stock")
            await publish(hub, f"plain {number}")
            await settle()
        client.read_on()
        await settle()
        assert client.data == [
            "first", "sent", "plain 0", "plain 1", "plain 2", "plain 3",
            "price 4", "stock 4", "plain 4",
        ]  # fmt: skip
        assert hub.statistics().dropped == 8
        await client.leave()


async def test_policy_close_ends_the_stream_and_the_client_resumes_without_a_gap() -> None:
    lifecycle = Lifecycle()
    hub = Hub(policy="close", queue_frames=2)
    client = Client(hub, lifecycle)
    with reasons(lifecycle) as seen:
        async with hub:
            client.connect()
            await settle()
            client.stall()
            for one in "abcdefgh":
                await publish(hub, one)
                await settle()
            assert client.task is not None
            assert client.task.done()
            assert not client.is_complete
            client.read_on()
            client.connect(resumes=True)
            await settle()
            assert client.data == list("abcdefgh")
            assert not client.names
            await client.leave()
    assert seen == ["stalled", "left"]


@in_virtual_time
async def test_reader_that_takes_nothing_is_dropped_after_the_timeout(clock: HandClock) -> None:
    lifecycle, hub = Lifecycle(), Hub(send_timeout=7)
    client = Client(hub, lifecycle)
    with reasons(lifecycle) as seen:
        async with hub:
            task = client.connect()
            await settle()
            client.stall()
            await publish(hub, "x")
            began = clock.now()
            await task
    assert clock.now() - began == pytest.approx(7, abs=0.1)
    assert seen == ["stalled"]
    assert not client.is_complete


# Ends -----------------------------------------------------------------------------------------


@in_virtual_time
async def test_stream_ends_politely_when_its_time_is_over(clock: HandClock) -> None:
    lifecycle, hub = Lifecycle(), Hub(max_age=100)
    old, expired, in_time = (Client(hub, lifecycle) for _ in range(3))
    with reasons(lifecycle) as seen:
        async with hub:
            began = clock.now()
            ends = [expired.connect(expires_at=datetime.now(UTC) + timedelta(seconds=20))]
            with in_force(Deadline(began + 30, clock=clock)):
                ends.append(in_time.connect())
            ends.append(old.connect())
            times = []
            for end in ends:
                await end
                times.append(clock.now() - began)
    assert seen == ["expired", "deadline", "age"]
    assert times[0] == pytest.approx(20, abs=1)
    assert 29 <= times[1] < 30
    assert 79 <= times[2] <= 100
    for client, name in ((expired, "expired"), (in_time, "drain"), (old, "drain")):
        assert client.is_complete
        assert client.names == [name]
    assert 1_000 <= (old.events[-1].retry or 0) <= 5_000


async def test_drain_ends_streams_in_their_turn_and_lets_finite_ones_finish() -> None:
    lifecycle, hub = Lifecycle(), Hub()
    endless, stalled, finite, late = (Client(hub, lifecycle) for _ in range(4))
    with reasons(lifecycle) as seen:
        await hub.open(lifecycle)
        endless.connect()
        stalled.connect()
        finite.connect(ends_on="done", finish_on_drain=True)
        await settle()
        assert len(lifecycle.streams) == 2
        stalled.stall()
        await publish(hub, "on its way")
        await settle()
        lifecycle.enter(Phase.DRAINING)
        for place in tuple(lifecycle.streams):
            place.leave.set()
        await settle()
        assert endless.is_complete
        assert endless.data == ["on its way"]
        assert endless.names == ["drain"]
        assert json.loads(str(endless.events[-1].data)) == {"reason": "drain"}
        stalled.read_on()
        await settle()
        assert stalled.data == ["on its way"]
        assert stalled.is_complete
        await late.connect()
        assert late.names == ["drain"]
        await publish(hub, "", event="done")
        assert finite.task is not None
        await finite.task
        assert finite.is_complete
        assert await hub.drain(0.0) == ()
        await hub.close()
    assert sorted(seen) == ["drain", "drain", "drain", "finished"]
    assert not lifecycle.streams


@in_virtual_time
async def test_stalled_reader_holds_a_drain_up_for_a_second_at_most(clock: HandClock) -> None:
    lifecycle, hub = Lifecycle(), Hub()
    client = Client(hub, lifecycle)
    async with hub:
        task = client.connect()
        await settle()
        client.stall()
        await publish(hub, "x")
        await asyncio.sleep(5)
        began = clock.now()
        for place in tuple(lifecycle.streams):
            place.leave.set()
        await task
    assert clock.now() - began <= 1.01


async def test_filter_that_raises_ends_its_own_stream_only_and_never_politely(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lifecycle, hub = Lifecycle(), Hub()
    broken, sound = Client(hub, lifecycle), Client(hub)

    def fails(event: Published) -> bool:
        raise KeyError("tenant")

    caplog.set_level(logging.ERROR)
    with reasons(lifecycle) as seen:
        async with hub:
            task = broken.connect(filter=fails)
            sound.connect()
            await settle()
            await publish(hub, "x")
            with pytest.raises(KeyError):
                await task
            await settle()
            assert sound.data == ["x"]
            await sound.leave()
    assert broken.names == ["error"]
    assert broken.messages[-1]["type"] == "http.response.truncate"
    assert seen == ["failed"]
    assert "GET /events failed and is cut: KeyError: 'tenant'" in caplog.text


@pytest.mark.parametrize("error", [ConnectionResetError, WebSocketDisconnect])
async def test_server_that_raises_for_a_client_that_left_is_no_failure(
    error: type[Exception],
) -> None:
    lifecycle, hub = Lifecycle(), Hub()
    client = Client(hub, lifecycle)
    with reasons(lifecycle) as seen:
        async with hub:
            task = client.connect()
            await settle()
            client.error = error()
            await publish(hub, "x")
            await task
    assert seen == ["left"]


# The bus dies ---------------------------------------------------------------------------------


@in_virtual_time
async def test_subscribers_stay_while_the_bus_is_down_and_then_get_everything(
    clock: HandClock,
) -> None:
    lifecycle, bus = Lifecycle(), BrittleBus()
    told: list[Event] = []
    lifecycle.events.subscribe(told.append)
    hub = Hub(bus, heartbeat=15)
    live, resuming, gone = (Client(hub) for _ in range(3))
    await hub.open(lifecycle)
    for client in (live, resuming, gone):
        client.connect()
    await settle()
    await resuming.leave()
    await gone.leave()
    await publish(hub, *map(str, range(3000)))  # more than the hub keeps
    bus._entries = bus._entries.__class__(bus._entries, maxlen=10_000)
    bus.cut()
    await asyncio.sleep(1)
    with pytest.raises(BusUnavailable) as caught:
        await publish(hub, "refused")
    assert caught.value.status == 503
    assert isinstance(caught.value, ConnectionError)
    await asyncio.sleep(60)
    assert not live.names
    assert any(event.comment for event in live.events)  # it is kept alive
    bus.is_down = False
    await publish(hub, "back")
    await asyncio.sleep(10)
    assert live.data[-1] == "back"
    assert len(live.data) == 3001
    lost, regained = (event for event in told if isinstance(event, BusLost | BusRegained))
    assert (type(lost), type(regained)) == (BusLost, BusRegained)
    await live.leave()
    await hub.close()


@in_virtual_time
async def test_client_that_waits_for_its_history_is_kept_alive_and_may_leave(
    clock: HandClock,
) -> None:
    bus = BrittleBus()
    hub = Hub(bus, replay=2)
    async with hub:
        first = Client(hub)
        first.connect()
        await settle()
        await first.leave()
        await publish(hub, *"abcdef")
        await settle()
        bus.cut()
        stays, leaves, cut = (Client(hub) for _ in range(3))
        for client in (stays, leaves, cut):
            client.last_id = first.last_id
            client.connect(resumes=True)
        await asyncio.sleep(40)
        assert any(event.comment for event in stays.events)
        await leaves.leave()
        assert cut.task is not None
        cut.task.cancel()
        await asyncio.wait([cut.task])
        assert hub.statistics().subscribers == 1
        bus.is_down = False
        await asyncio.sleep(10)
        assert stays.data == list("abcdef")
        assert not stays.names
        await stays.leave()
    assert len(asyncio.all_tasks()) == 1


async def test_client_that_waits_for_its_history_ends_when_the_hub_is_closed() -> None:
    bus = BrittleBus()
    hub = Hub(bus, replay=1)
    await hub.open()
    client = Client(hub)
    client.last_id = str(await bus.tail())
    await publish(hub, *"abc")
    await settle()
    bus.cut()
    task = client.connect(resumes=True)
    await settle()
    await hub.close()
    await task
    assert client.names == ["drain"]
    assert client.is_complete


async def test_store_that_is_made_anew_is_told_to_all_also_to_the_slow() -> None:
    bus = BrittleBus()
    hub = Hub(bus)
    quick, slow = Client(hub), Client(hub)
    async with hub:
        quick.connect()
        slow.connect()
        await settle()
        slow.stall()
        await publish(hub, "in flight")
        await settle()
        await publish(hub, "queued")
        await settle()
        bus.begin_anew()
        bus.cut()
        bus.is_down = False
        while quick.names != ["reset"]:
            await asyncio.sleep(0.01)
        await publish(hub, "new")
        await settle()
        slow.read_on()
        await settle()
        assert quick.data == ["in flight", "queued", "new"]
        assert slow.data == ["in flight", "new"]
        assert slow.names == ["reset"]
        assert slow.last_id == "anew-1"
        await quick.leave()
        await slow.leave()


@in_virtual_time
async def test_bus_that_was_never_reached_is_a_503_and_fails_the_start(clock: HandClock) -> None:
    bus = BrittleBus()
    bus.is_down = True
    hub = Hub(bus)
    with pytest.raises(BusUnavailable):
        await hub.open()
    hub, client = Hub(bus), Client(Hub(bus))
    client.hub = hub
    await client.connect()
    assert client.messages[0]["status"] == 503
    assert json.loads(client.messages[1]["body"])["code"] == "SP801"
    assert len(asyncio.all_tasks()) == 1


# Cancelled, full, closed ----------------------------------------------------------------------


@pytest.mark.parametrize("is_slow", [False, True])
async def test_cancelled_at_any_tick_leaves_nothing(is_slow: bool) -> None:
    lifecycle = Lifecycle()
    hub = Hub(BrittleBus(), replay=2)
    first = Client(hub)
    await hub.open(lifecycle)
    first.connect()
    await settle()
    await first.leave()
    await publish(hub, *"abcdef")
    for ticks in range(60):
        client = Client(hub, lifecycle)
        client.last_id = str(await hub._bus.tail())
        task = client.connect(resumes=True)
        for tick in range(ticks):
            if tick == 8 and is_slow:
                client.stall()
            if tick in (10, 12):
                await hub.publish("t", "x")
            if tick == 20:
                client.read_on()
            if tick == 30:
                for place in lifecycle.streams:
                    place.leave.set()
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or client.is_complete
        assert not lifecycle.streams
        assert hub.statistics().subscribers == 0
        assert len(asyncio.all_tasks()) == 2  # this one, and the reader
    await hub.close()
    assert len(asyncio.all_tasks()) == 1


async def test_one_subscriber_too_many_is_a_503() -> None:
    hub = Hub(max_subscribers=1)
    one, two = Client(hub), Client(hub)
    one.connect()
    await settle()
    await two.connect()
    assert two.messages[0]["status"] == 503
    assert json.loads(two.messages[1]["body"])["code"] == "SP802"
    await one.leave()
    two.connect()
    await settle()
    assert two.messages[0]["status"] == 200
    await two.leave()


async def test_closed_hub_refuses_and_may_be_opened_again() -> None:
    hub = Hub()
    async with hub:
        pass
    with pytest.raises(NotStarted):
        await hub.publish("t", "x")
    client = Client(hub)
    await client.connect()
    assert client.messages[0]["status"] == 500
    async with hub:
        await hub.publish("t", "x")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Hub(replay=0), "replay"),
        (lambda: Hub(heartbeat=0), "heartbeat"),
        (lambda: Hub(max_age=float("nan")), "max_age"),
        (lambda: Hub(policy="drop"), "policy"),  # type: ignore[arg-type]
        (lambda: MemoryBus(keep=0), "keep"),
        (lambda: Hub().response("orders"), "topics"),
        (lambda: Hub().response([]), "topics"),
        (lambda: Hub().response(["t"], expires_at=datetime(2026, 1, 1)), "expires_at"),
    ],
)
def test_wrong_setting_is_named(make: Any, word: str) -> None:
    with pytest.raises(InvalidSetting, match=word):
        make()


@pytest.mark.parametrize("event", ["gap", "reset", "a\nb"])
async def test_event_name_that_would_be_mistaken_is_refused(event: str) -> None:
    with pytest.raises(InvalidSetting, match="event="):
        await Hub().publish("t", "x", event=event)


async def test_memory_bus_reads_what_came_after_and_knows_what_it_lost() -> None:
    bus = MemoryBus(keep=2)
    start = await bus.tail()
    assert await bus.read(start, limit=9, wait=0.001) == []
    waiting = asyncio.create_task(bus.read(start, limit=9, wait=60))
    await asyncio.sleep(0)
    for data in "ab":
        await bus.append(Entry("t", data))
    assert [entry.data for entry in await waiting] == ["a", "b"]
    end = await bus.append(Entry("t", "c"))
    with pytest.raises(HistoryLost):
        await bus.read(start, limit=9, wait=0)
    one = await bus.read(Position(end.epoch, 1), limit=1, wait=0)
    assert [(entry.data, entry.offset) for entry in one] == [("b", 2)]
    cancelled = asyncio.create_task(bus.read(end, limit=9, wait=60))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert not bus._readers
