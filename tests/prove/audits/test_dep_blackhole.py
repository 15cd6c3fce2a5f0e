"""dep-blackhole: every request has a whole answer inside the deadline, whatever it says."""

from stormproof.prove.audits.dep_blackhole import AUDIT

from .records import faced, request


def test_a_late_but_whole_answer_inside_the_deadline_passes() -> None:
    judgement = AUDIT.judge(faced(request("blackhole", status=504, seconds=10.3)))
    assert (judgement.outcome, judgement.value) == ("pass", 10.3)


def test_a_request_that_hangs_fails() -> None:
    hanging = request("blackhole", ended="timeout", seconds=11.0)
    judgement = AUDIT.judge(faced(request("blackhole", status=503), hanging))
    assert judgement.outcome == "fail"
    assert judgement.display == (
        "with DATABASE_URL silent, 1 of 2 requests had not ended after 10 s: "
        "GET /user was never answered: the client gave up after 11.00 s"
    )


def test_an_answer_past_the_deadline_fails() -> None:
    assert AUDIT.judge(faced(request("blackhole", seconds=10.6))).outcome == "fail"
