"""overload-recovery: from when on the answers are quick again."""

import pytest

from stormproof.prove._overload import recovered_after, recovery_limit
from stormproof.prove._recording import Request
from stormproof.prove.audits.overload_recovery import AUDIT

from .overloads import ENDED_AT, overloaded
from .records import request


def after(*, quick_from: float, until: float = 7.0) -> list[Request]:
    """Return ten requests a second after the overload, slow until `quick_from`."""
    moments = [n / 10 for n in range(round(until * 10))]
    return [
        request("after", at=ENDED_AT + moment, seconds=0.02 if moment >= quick_from else 0.9)
        for moment in moments
    ]


@pytest.mark.parametrize(
    ("quick_from", "outcome"), [(0.0, "pass"), (5.0, "pass"), (5.5, "fail"), (9.0, "fail")]
)
def test_five_seconds_are_allowed(quick_from: float, outcome: str) -> None:
    assert AUDIT.judge(overloaded(after(quick_from=quick_from))).outcome == outcome


def test_it_says_how_long_it_took_or_how_long_was_waited() -> None:
    back = AUDIT.judge(overloaded(after(quick_from=2.0)))
    assert back.display == (
        "GET /user, p90 0.020 s before the overload, was back to 0.070 s within 2.0 s after it"
    )
    gone = [request("after", at=20.0, ended="timeout", seconds=1.0)] * 3
    assert AUDIT.judge(overloaded(gone)).display == (
        "GET /user, p90 0.020 s before the overload, was not back to 0.070 s 5.0 s after it: "
        "0 of 3 later requests were answered in time"
    )


def test_one_quick_moment_is_no_recovery() -> None:
    mixed = [*after(quick_from=0.0, until=0.5), *after(quick_from=9.0)[5:]]
    assert recovered_after(mixed, ended_at=ENDED_AT, limit=0.07) is None


def test_errors_are_no_answers() -> None:
    wrong = [request("after", at=ENDED_AT + n / 10, status=503) for n in range(60)]
    assert AUDIT.judge(overloaded(wrong)).outcome == "fail"


def test_twice_the_time_before_is_allowed_and_never_less_than_50_ms_more() -> None:
    assert recovery_limit(0.2) == 0.4
    assert recovery_limit(0.01) == pytest.approx(0.06)


def test_an_app_that_only_computes_and_a_late_generator_are_not_judged() -> None:
    assert AUDIT.judge(overloaded(after(quick_from=9.0), limited_by="cpu")).outcome == "n-a"
    assert AUDIT.judge(overloaded([])).outcome == "not-measured"


def test_a_machine_without_cpu_to_spare_is_blamed_for_slow_answers_but_not_for_none() -> None:
    slow = after(quick_from=9.0)
    assert AUDIT.judge(overloaded(slow, starved=0.3)).outcome == "not-measured"
    gone = [request("after", at=20.0, ended="timeout", seconds=1.0)] * 3
    assert AUDIT.judge(overloaded(gone, starved=0.3)).outcome == "fail"
