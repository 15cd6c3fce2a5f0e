"""Whatever happens, a client sees what was published in order, once, or is told what it missed."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stormproof.stream import Hub, _feed
from stormproof.stream._backlog import POLICIES, Backlog, Policy
from stormproof.stream._bus import Entry
from stormproof.stream._published import Published
from stormproof.testing import run_in_virtual_time

from .clients import Client, missed, settle

CLIENTS = 3

steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 6)),
        st.tuples(st.just("stall"), st.integers(0, CLIENTS - 1)),
        st.tuples(st.just("read on"), st.integers(0, CLIENTS - 1)),
        st.tuples(st.just("come back"), st.integers(0, CLIENTS - 1)),
        st.tuples(st.just("cut"), st.integers(0, CLIENTS - 1)),
        st.tuples(st.just("run"), st.integers(1, 5)),
        st.tuples(st.just("time"), st.integers(1, 40)),
    ),
    max_size=40,
)


async def play(script: list[tuple[str, int]], policy: Policy, replay: int) -> None:
    hub = Hub(replay=replay, policy=policy, queue_frames=3)
    clients = [Client(hub) for _ in range(CLIENTS)]
    published: list[int] = []

    async def publish(number: int) -> None:
        for _ in range(number):
            # Two of three topics are theirs; keys repeat, so that they can coalesce.
            topic = ("t", "u", "other")[len(published) % 3]
            key = str(len(published) % 4)
            published.append((await hub.publish(topic, "x", key=key)).offset)

    async with hub:
        for client in clients:
            client.connect(["t", "u"])
        await settle()
        for what, number in script:
            if what == "publish":
                await publish(number)
            elif what == "stall":
                clients[number].stall()
            elif what == "read on":
                clients[number].read_on()
            elif what == "come back":
                await clients[number].leave()
                clients[number].connect(["t", "u"], resumes=True)
            elif what == "cut":
                task = clients[number].task
                assert task is not None
                task.cancel()
                await asyncio.wait([task])
                clients[number].read_on()
                clients[number].connect(["t", "u"], resumes=True)
            elif what == "time":  # heartbeats, and the end of who has stalled too long
                await asyncio.sleep(number)
            else:
                await settle(number)
        for client in clients:
            client.read_on()
        await settle(100)
        for client in clients:
            assert client.task is not None
            if client.task.done():
                client.connect(["t", "u"], resumes=True)
        await settle(100)
        await publish(6)  # so that each open gap is followed by an event
        await settle(100)
        theirs = [offset for at, offset in enumerate(published) if at % 3 != 2]
        for client in clients:
            missed(client, theirs, is_ordered=policy != "coalesce")
            await client.leave()
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("replay", [4, 1000])
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(script=steps)
def test_events_come_once_in_order_or_are_told_as_missed(
    policy: Policy, replay: int, script: list[tuple[str, int]], monkeypatch: Any
) -> None:
    # A slice after each subscriber: others join, leave and stall in the middle of a fan-out.
    monkeypatch.setattr(_feed, "SLICE", -1.0)
    monkeypatch.setattr(_feed, "_LOOK_EVERY", 1)
    run_in_virtual_time(play(script, policy, replay))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40), st.booleans()), max_size=60),
    st.sampled_from(["drop-oldest", "coalesce"]),
)
def test_backlog_is_bounded_and_counts_what_it_drops(
    script: list[tuple[int, int, bool]], policy: Policy
) -> None:
    backlog = Backlog(policy, max_frames=4, max_bytes=100)
    taken, told = 0, 0
    waiting: list[bytes] = []
    for offset, (key, size, takes) in enumerate(script, 1):
        entry = Entry("t", "", key=str(key) if key else None, offset=offset)
        assert backlog.add(Published(entry, "e"), b"x" * size)
        assert 1 <= len(backlog) <= 4
        if takes:
            gap = backlog.take_gap()
            told += gap.dropped if gap else 0
            payload = backlog.take()
            assert payload is not None
            taken += 1
            waiting.append(payload)
    gap = backlog.take_gap()
    told += gap.dropped if gap else 0
    rest = 0
    while (payload := backlog.take()) is not None:
        rest += len(payload)
        taken += 1
    assert rest <= 100
    assert taken + told == len(script)
    assert told == backlog.dropped
