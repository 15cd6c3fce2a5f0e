"""loop-blocking, on recordings built by hand."""

from typing import Any

from stormproof.prove import Judgement
from stormproof.prove._recording import AgentEvent
from stormproof.prove.audits.loop_blocking import AUDIT
from tests.prove.audits.visits import event, handled, record, recording, request


def stall(at: float = 5.0, **changed: Any) -> AgentEvent:
    facts = {
        "seconds": 0.2,
        "route": "GET /report",
        "file": "/srv/app.py",
        "line": 9,
        "function": "report",
        "stack": ["/srv/app.py:9 in report"],
    }
    return event("stall", at, **(facts | changed))


def judged(*events: AgentEvent) -> Judgement:
    return AUDIT.judge(recording(record(requests=[request("others", at=1.0)], events=events)))


def test_line_that_held_the_loop_for_long_twice_is_named() -> None:
    judgement = judged(stall(seconds=0.3), stall(6.0, seconds=0.4, line=10))
    assert judgement.outcome == "fail"
    assert judgement.display == (
        "/srv/app.py:10 in report held the loop 2 times, for up to 400 ms (GET /report)"
    )
    assert judgement.value == 0.4
    assert judgement.stack == ("/srv/app.py:9 in report",)
    assert judgement.routes == ("GET /report",)


def test_one_short_stall_may_be_the_machine() -> None:
    assert judged(stall(seconds=1.9)).outcome == "pass"
    assert judged(stall(), stall(function="other")).outcome == "pass"


def test_one_stall_of_two_seconds_is_told() -> None:
    assert judged(stall(seconds=2.0)).outcome == "fail"


def test_rare_stalls_of_a_busy_route_count_only_when_they_are_long() -> None:
    asked = [handled(n, began=1.0, ended=1.1, route="GET /report") for n in range(31)]
    assert judged(stall(), stall(), stall(), *asked).outcome == "pass"
    assert judged(stall(), stall(), stall(), *asked[:30]).outcome == "fail"
    assert judged(stall(), stall(), *asked[:2]).outcome == "pass"
    assert judged(stall(seconds=0.4), stall(seconds=0.3), *asked).outcome == "fail"


def test_limit_itself_is_no_stall() -> None:
    assert judged(*[stall(seconds=0.1)] * 3).outcome == "pass"


def test_start_and_end_of_the_process_are_left_out() -> None:
    at_start = stall(1.1, seconds=2.5)
    at_end = (event("lifespan", 9.0, phase="stopping"), stall(9.5, seconds=2.5))
    assert judged(at_start, *at_end).outcome == "pass"


def test_code_of_a_library_without_a_request_is_not_the_apps() -> None:
    file = "/venv/lib/python3.13/site-packages/uvicorn/server.py"
    outside = stall(route=None, file=file)
    assert judged(outside, outside, outside).outcome == "pass"
    inside = stall(file=file)
    assert judged(inside, inside, inside).outcome == "fail"


def test_own_line_outside_of_requests_counts() -> None:
    ticker = stall(route=None)
    judgement = judged(ticker, ticker, ticker)
    assert judgement.outcome == "fail"
    assert "(no request)" in judgement.display


def test_stalls_of_all_attacks_are_added_up() -> None:
    one = record("baseline", requests=[request("steady")], events=[stall(seconds=0.3)])
    two = record("overload", requests=[request("load")], events=[stall(seconds=0.3)])
    assert AUDIT.judge(recording(one, two)).outcome == "fail"


def test_learning_is_start_up() -> None:
    marks = {"light-load": 8.0}
    events = [stall(), stall(), stall()]
    learned = record("baseline", requests=[request("learn")], events=events, marks=marks)
    assert AUDIT.judge(recording(learned)).outcome == "pass"


def test_nothing_played_is_not_measured() -> None:
    assert AUDIT.judge(recording(record(problem="it broke"))).outcome == "not-measured"
