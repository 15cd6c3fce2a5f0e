"""thread-headroom: what the other routes took while the slow one held the threads."""

import pytest

from stormproof.prove._recording import Recording
from stormproof.prove.audits.thread_headroom import AUDIT

from .records import OTHER, USER, recorded, request

FACTS = {"threads": {"route": "GET /report", "seconds": 0.4, "limit": 40}}


def measured(*, before: float, during: float, other: float = 0.01) -> Recording:
    requests = [request("before", seconds=before)] * 20 + [request("during", seconds=during)] * 20
    requests += [request("before", route=OTHER)] * 20
    requests += [request("during", route=OTHER, seconds=other)] * 20
    return recorded("threads", requests=requests, facts=FACTS)


@pytest.mark.parametrize(
    ("before", "during", "outcome"),
    [
        (0.01, 0.25, "pass"),  # a quarter of a second is always allowed
        (0.01, 0.26, "fail"),
        (0.05, 0.49, "pass"),
        (0.05, 0.51, "fail"),
    ],
)
def test_ten_times_as_long_is_allowed(before: float, during: float, outcome: str) -> None:
    assert AUDIT.judge(measured(before=before, during=during)).outcome == outcome


def test_it_names_the_slow_route_and_the_one_that_waited() -> None:
    judgement = AUDIT.judge(measured(before=0.01, during=0.8))
    assert judgement.display == (
        "GET /report (0.40 s, 40 threads) full: GET /user took 0.800 s (median), 0.010 s before; "
        "1 of 2 other routes were held up"
    )
    assert judgement.routes == (USER,)


def test_a_route_that_does_not_answer_at_all_counts_as_late() -> None:
    gone = [request("during", ended="timeout", seconds=2.0)] * 20
    recording = recorded("threads", requests=[request("before")] * 20 + gone, facts=FACTS)
    assert AUDIT.judge(recording).outcome == "fail"


def test_without_other_routes_it_is_not_measured() -> None:
    assert AUDIT.judge(recorded("threads", facts=FACTS)).outcome == "not-measured"
    assert AUDIT.judge(recorded("threads", problem="no")).outcome == "not-measured"
