"""slow-sender, on recordings built by hand."""

from typing import Any

from stormproof.prove import Judgement
from stormproof.prove._recording import Ended, Request
from stormproof.prove.audits.slow_sender import AUDIT
from tests.prove.audits.visits import census, checkout, record, recording, request


def half(group: str = "half-head", ended: Ended = "complete", seconds: float = 10.0) -> Request:
    return request(group, id=5, seconds=seconds, ended=ended, status=408)


def judged(*requests: Request, facts: dict[str, Any] | None = None) -> Judgement:
    marks = {"waiting": 0.5, "over": 20.0}
    played = record("patience", requests=requests, marks=marks, facts=facts)
    return AUDIT.judge(recording(played))


def test_half_requests_that_are_waited_for_are_the_servers_fault() -> None:
    judgement = judged(half(ended="timeout", seconds=21.0), half("half-body", "timeout", 21.0))
    assert judgement.outcome == "fail"
    assert judgement.blame == "server"
    assert judgement.display == (
        "1 half heads and 1 half bodies of 2 half-sent requests were still waited for after 20 s"
    )


def test_any_end_by_the_server_passes() -> None:
    judgement = judged(half(), half("half-body", "reset", 12.0), request("others"))
    assert judgement.outcome == "pass"
    assert judgement.display.startswith("2 of 2 half-sent requests were ended, the last after 12.0")


def test_others_who_are_not_served_meanwhile_fail_it() -> None:
    lost = [request("others", ended="timeout", status=0) for _ in range(2)]
    served = [request("others") for _ in range(8)]
    judgement = judged(half(), *lost, *served)
    assert judgement.outcome == "fail"
    assert judgement.display.startswith("2 of 10 other requests were not served")
    assert judged(half(), *lost[:1], *served, request("others")).outcome == "pass"


def test_connection_held_for_a_body_that_has_not_come_fails_it() -> None:
    facts = {"census-waiting": census(checkouts=[checkout(5)])}
    judgement = judged(half("half-body"), facts=facts)
    assert judgement.outcome == "fail"
    assert judgement.blame == "app"
    assert "1 database connections were held" in judgement.display


def test_refused_connections_measure_nothing() -> None:
    assert judged(half(ended="refused")).outcome == "not-measured"
    assert AUDIT.judge(recording()).outcome == "not-measured"
