"""How far a replica is behind, and which of several is read from; without a server."""

import asyncio
import math
import random
from typing import Any, cast

import pytest

from stormproof.database._gate import Gate
from stormproof.database._replica import Mark, Replica
from stormproof.database._replicas import Replicas

Told = list[tuple[str, str | None]]


def replica(
    place: str = "one", *, max_lag: float | None = 5.0, told: Told | None = None
) -> Replica:
    heard: Told = [] if told is None else told
    gate = Gate(2, max_wait=0, what="", advice="", on_timeout=lambda _: None)
    nothing = cast(Any, None)  # it has no server
    tell = lambda *what: heard.append(what)  # noqa: E731
    return Replica(place, nothing, gate, nothing, max_lag=max_lag, tell=tell)


@pytest.mark.parametrize("seed", range(20))
def test_a_replica_is_never_further_behind_than_it_is_said_to_be(seed: int) -> None:
    """Random histories: what was written when, what was replayed, and when one was looked at."""
    chance = random.Random(seed)
    one, marks, written = replica(max_lag=math.inf), [], [(0, 0.0)]
    replayed, now = 0, 0.0
    for _ in range(200):
        now += chance.random()
        step = chance.choice(("write", "write", "replay", "mark", "look"))
        if step == "write":
            written.append((written[-1][0] + chance.randrange(1, 50), now))
        elif step == "replay":
            replayed = chance.randrange(replayed, written[-1][0] + 1)
        elif step == "mark":
            marks.append(Mark(written[-1][0], now))
        else:
            one.answered(replayed, marks, now)
        missing = [at for position, at in written if position > replayed]
        really = now - missing[0] if missing else 0.0
        lag = one.statistics(now).lag
        assert lag is None or lag >= really


def test_an_idle_primary_makes_no_replica_old() -> None:
    one = replica(max_lag=1.0)
    for now in range(100):
        one.answered(7, [Mark(7, now - 0.5)], now)
        assert one.is_usable(now)
    assert not one.is_usable(101)  # two looks are missing


def test_what_happens_to_a_replica_is_told_once() -> None:
    told: Told = []
    one = replica(max_lag=1.0, told=told)
    one.answered(7, [Mark(7, 10.0)], 10.0)
    assert one.may_be_read(10.5)
    assert (one.may_be_read(11.5), one.may_be_read(11.6)) == (False, False)
    one.fail("it is gone", 12.0)
    one.answered(9, [Mark(7, 10.0), Mark(8, 12.5), Mark(10, 13.0)], 13.0)
    one.answered(None, [], 14.0)
    assert told == [
        ("one", "it is more than 1 s behind"),
        ("one", None),
        ("one", "it is no standby, or does not tell how far it is"),
    ]


async def test_reads_go_to_the_least_busy_replica_and_in_turns_among_equals() -> None:
    members = [replica(place, max_lag=None) for place in "abc"]
    now = asyncio.get_running_loop().time()
    for one in members:
        one.answered(1, [], now)
    replicas = Replicas(members, None, max_lag=None)
    assert {replicas.usable()[0].place for _ in range(3)} == {"a", "b", "c"}
    members[0].gate.try_acquire()
    assert {replicas.usable()[0].place for _ in range(3)} == {"b", "c"}
    members[1].fail("it is gone", now)
    assert [one.place for one in replicas.usable()] == ["c", "a"]
