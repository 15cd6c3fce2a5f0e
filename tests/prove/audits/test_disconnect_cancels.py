"""disconnect-cancels, on recordings built by hand."""

from collections.abc import Sequence

from stormproof.prove import Judgement
from stormproof.prove._recording import AgentEvent, Request
from stormproof.prove.audits.disconnect_cancels import AUDIT
from tests.prove.audits.visits import handled, record, recording, request, route

REPORT = "GET /report"


def left(id: int, *, at: float = 2.0, where: str = REPORT) -> Request:
    """Return a request that was left 0.1 s after it was sent."""
    return request(
        "left", id=id, at=at, seconds=0.1, route=where, ended="left", status=0, has_begun=False
    )


def end(id: int, ended: float) -> AgentEvent:
    return handled(id, began=2.0, ended=ended, route=REPORT)


def judged(
    requests: Sequence[Request], events: Sequence[AgentEvent] = (), *, seconds: float = 2.0
) -> Judgement:
    played = record(requests=requests, events=events, marks={"over": 6.0})
    return AUDIT.judge(recording(played, routes=[route(REPORT, seconds=seconds), route()]))


def test_handlers_that_worked_on_are_counted() -> None:
    judgement = judged([left(1), left(2)], [end(1, 4.0), end(2, 4.1)])
    assert judgement.outcome == "fail"
    assert judgement.display == (
        "GET /report: 2 of 2 worked on, for up to 2.0 s after their client had left"
    )
    assert judgement.routes == (REPORT,)


def test_handlers_that_ended_within_the_limit_pass() -> None:
    judgement = judged([left(1), left(2)], [end(1, 2.59), end(2, 2.2)])
    assert judgement.outcome == "pass"
    assert judgement.display.startswith("2 of 2 handlers ended within 0.5 s")


def test_handler_that_began_late_is_timed_from_its_beginning() -> None:
    late = handled(1, began=5.0, ended=5.1, route=REPORT)
    assert judged([left(1)], [late]).outcome == "pass"


def test_handler_that_never_ended_worked_on() -> None:
    assert judged([left(1)]).outcome == "fail"


def test_end_of_another_request_of_that_number_is_not_taken_for_it() -> None:
    warm_up = handled(1, began=0.5, ended=0.6, route=REPORT)
    canary = handled(1, began=2.2, ended=2.3, route="GET /livez")
    assert judged([left(1)], [warm_up, canary]).outcome == "fail"


def test_quick_routes_and_writes_leave_nothing_to_be_stopped() -> None:
    assert judged([left(1)], seconds=0.7).outcome == "n-a"
    promise = route(REPORT, seconds=2.0, is_promise=True)
    assert AUDIT.judge(recording(record(requests=[left(1)]), routes=[promise])).outcome == "n-a"


def test_endless_stream_counts_however_quick_it_began() -> None:
    stream = route(REPORT, kind="endless", seconds=0.0)
    played = record(requests=[left(1)], events=[end(1, 2.2)])
    assert AUDIT.judge(recording(played, routes=[stream])).outcome == "pass"


def test_attack_that_was_not_played_is_not_measured() -> None:
    assert AUDIT.judge(recording()).outcome == "not-measured"
