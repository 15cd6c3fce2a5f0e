"""slow-reader, on recordings built by hand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from stormproof.prove import Judgement
from stormproof.prove._recording import Ended, Request
from stormproof.prove.audits.slow_reader import AUDIT
from tests.prove.audits.visits import census, checkout, memory, record, recording, request

EXPORT = "GET /export"
MARKS = {"calm": 1.0, "leaving": 2.0, "stalled": 5.0, "stalled-ended": 9.0}


def others(at: float, *, seconds: float = 0.01, ended: Ended = "complete") -> list[Request]:
    return [request("others", at=at, seconds=seconds, ended=ended) for _ in range(10)]


def judged(
    *,
    grown: float = 0.0,
    held: Sequence[Any] = (),
    calm: Sequence[Request] = (),
    stalled: Sequence[Request] = (),
    readers: int = 2,
) -> Judgement:
    reading = [request("stalled", id=n, route=EXPORT, at=5.0, ended="left") for n in range(readers)]
    played = record(
        requests=[*reading, *calm, *stalled],
        samples=memory((2.0, 60.0), (4.0, 80.0), (7.0, 80.0 + grown)),
        marks=MARKS,
        facts={"stalled-routes": [EXPORT], "census-stalled": census(checkouts=held)},
    )
    return AUDIT.judge(recording(played))


def test_reader_who_costs_nothing_passes() -> None:
    judgement = judged(grown=20.0, calm=others(1.5), stalled=others(6.0))
    assert judgement.outcome == "pass"
    assert judgement.limit == 20.0
    assert judgement.routes == (EXPORT,)


def test_memory_that_grows_beyond_buffers_fails() -> None:
    judgement = judged(grown=20.1)
    assert judgement.outcome == "fail"
    assert judgement.display == (
        "memory grew by 20 MB while 2 readers had stopped reading (at most 20 MB would be buffers)"
    )


def test_answer_that_is_not_streamed_may_stay_in_memory_but_not_a_streamed_one() -> None:
    read = request("readers", route=EXPORT)
    fixed = replace(read, size_bytes=5_000_000)
    assert judged(grown=39.0, calm=[fixed]).outcome == "pass"
    streamed = replace(fixed, headers={"transfer-encoding": "chunked"})
    assert judged(grown=39.0, calm=[streamed]).outcome == "fail"


def test_connection_held_for_a_stalled_reader_fails() -> None:
    judgement = judged(held=[checkout(1, route=EXPORT, held=2.2), checkout(40, route=EXPORT)])
    assert judgement.outcome == "fail"
    assert judgement.display.startswith("1 database connections were held for 2 readers")


def test_others_who_wait_much_longer_fail() -> None:
    slow = others(6.0, seconds=0.3)
    assert judged(calm=others(1.5), stalled=slow).outcome == "fail"
    assert judged(calm=others(1.5, seconds=0.1), stalled=slow).outcome == "pass"
    assert judged(calm=others(1.5), stalled=others(6.0, seconds=0.2)).outcome == "pass"


def test_others_who_are_not_served_fail() -> None:
    lost = others(6.0, ended="timeout")[:2] + others(6.0)[:8]
    judgement = judged(calm=others(1.5), stalled=lost)
    assert judgement.outcome == "fail"
    assert judgement.display.startswith("2 of 10 other requests were not served")


def test_app_without_long_answers_is_not_judged() -> None:
    played = record(marks=MARKS, facts={"stalled-routes": []})
    assert AUDIT.judge(recording(played)).outcome == "n-a"


def test_stalled_readers_without_an_answer_measure_nothing() -> None:
    assert judged(readers=0).outcome == "not-measured"
    assert AUDIT.judge(recording()).outcome == "not-measured"
