"""overload-fast-reject: how those were turned away that were not served."""

from dataclasses import replace

from stormproof.prove.audits.overload_fast_reject import AUDIT

from .overloads import answers, overloaded, refusal
from .records import request

GOOD = answers(100)


def test_refusals_at_once_with_retry_after_pass() -> None:
    judgement = AUDIT.judge(overloaded([*GOOD, *[refusal(10 + n / 200) for n in range(750)]]))
    assert judgement.outcome == "pass"
    assert judgement.display == (
        "750 of 750 callers that were not served were refused properly, half of them within "
        "0.010 s; GET /user offered 250/s at a capacity of 100/s"
    )


def test_each_way_of_refusing_badly_is_named() -> None:
    silent = replace(refusal(11.0), headers={})
    late = refusal(11.0, seconds=0.8)
    wrong = refusal(11.0, status=500)
    gone = request("overload", at=11.0, ended="timeout", seconds=1.0)
    bad = [silent] * 40 + [late] * 30 + [wrong] * 20 + [gone] * 10
    judgement = AUDIT.judge(overloaded([*GOOD, *bad]))
    assert judgement.outcome == "fail"
    assert judgement.display.startswith(
        "0 of 100 callers that were not served were refused properly; the others: "
        "40 503 without Retry-After, 30 503 after more than 0.75 s, 20 status 500"
    )


def test_one_in_twenty_may_go_wrong() -> None:
    gone = request("overload", at=11.0, ended="timeout", seconds=1.0)
    assert AUDIT.judge(overloaded([*GOOD, *[refusal(11.0)] * 95, *[gone] * 5])).outcome == "pass"
    assert AUDIT.judge(overloaded([*GOOD, *[refusal(11.0)] * 94, *[gone] * 6])).outcome == "fail"


def test_where_nobody_had_to_be_refused_there_is_nothing_to_say() -> None:
    assert AUDIT.judge(overloaded(GOOD)).outcome == "n-a"
    assert AUDIT.judge(overloaded([refusal(11.0)], limited_by="cpu")).outcome == "n-a"


def test_what_the_generator_could_not_send_is_no_refusal() -> None:
    unsent = request("overload", at=11.0, ended="unsent", seconds=None)
    assert AUDIT.judge(overloaded([*GOOD, *[unsent] * 500])).outcome == "n-a"
