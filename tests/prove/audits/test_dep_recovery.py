"""dep-recovery: five seconds after the return, the last failure is over."""

import pytest

from stormproof.prove.audits.dep_recovery import AUDIT, LIMIT

from .records import faced, request

MARKS = {"down-ended": 10.0, "blackhole-ended": 30.0}


def test_a_failure_or_two_after_the_return_pass() -> None:
    rows = (
        request("back-down", status=503, at=10.0),
        request("back-down", at=10.5),
        request("back-blackhole", status=503, at=30.0 + LIMIT),
        request("back-blackhole", at=35.1),
    )
    judgement = AUDIT.judge(faced(*rows, marks=MARKS))
    assert (judgement.outcome, judgement.value) == ("pass", LIMIT)


@pytest.mark.parametrize("fault", ["down", "blackhole"])
def test_a_route_that_stays_broken_fails(fault: str) -> None:
    back_at = MARKS[f"{fault}-ended"]
    rows = [request(f"back-{fault}", status=503, at=back_at + n) for n in range(7)]
    judgement = AUDIT.judge(faced(*rows, marks=MARKS))
    assert (judgement.outcome, judgement.routes) == ("fail", ("GET /user",))
    assert "is back: GET /user answered 503" in judgement.losses[0]


def test_a_route_that_is_late_fails() -> None:
    rows = (
        request("back-down", status=503, at=10.0 + LIMIT + 0.1),
        request("back-down", at=15.5),
    )
    assert AUDIT.judge(faced(*rows, marks=MARKS)).outcome == "fail"
