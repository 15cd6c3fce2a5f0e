"""overload-goodput: what was answered in time once the queue could have filled."""

import pytest

from stormproof.prove._overload import NO_USE, NO_WAY
from stormproof.prove.audits.overload_goodput import AUDIT

from .overloads import answers, overloaded
from .records import recorded, request


@pytest.mark.parametrize(("rate", "outcome"), [(100, "pass"), (81, "pass"), (78, "fail")])
def test_four_fifths_of_the_capacity_are_wanted(rate: float, outcome: str) -> None:
    assert AUDIT.judge(overloaded(answers(rate))).outcome == outcome


def test_the_callers_before_the_queue_was_full_do_not_count() -> None:
    early = [request("overload", at=10.0 + n / 1000) for n in range(1000)]
    lost = answers(250, ended="timeout", seconds=1.0)
    judgement = AUDIT.judge(overloaded([*early, *lost]))
    assert (judgement.outcome, judgement.value) == ("fail", 0.0)
    assert judgement.losses[0].endswith("no answer within 1 s, the client gave up")
    assert len(judgement.losses) == 5


def test_it_says_what_was_offered_and_what_was_answered() -> None:
    judgement = AUDIT.judge(overloaded(answers(100)))
    assert judgement.display == (
        "GET /user offered 250/s at a capacity of 100/s: 100 % of the capacity was answered "
        "within 1 s (300 answers in 3.0 s)"
    )


def test_an_app_that_only_computes_has_no_queue_to_end() -> None:
    assert AUDIT.judge(overloaded([], limited_by="cpu", busy=1.0)).outcome == "n-a"


def test_a_generator_that_sent_too_little_proves_no_pass() -> None:
    judgement = AUDIT.judge(overloaded(answers(100), sent=120.0))
    assert judgement.outcome == "not-measured"
    assert "the load generator was the bottleneck" in judgement.display


def test_a_generator_that_was_late_proves_no_fail() -> None:
    assert AUDIT.judge(overloaded(answers(50), late=0.4)).outcome == "not-measured"


def test_a_machine_without_cpu_to_spare_is_blamed_for_a_loss_but_not_for_a_collapse() -> None:
    assert AUDIT.judge(overloaded(answers(50), starved=0.3)).outcome == "not-measured"
    assert AUDIT.judge(overloaded(answers(5), starved=0.3)).outcome == "fail"


def test_nothing_to_overload_is_not_applicable_and_too_much_is_not_measured() -> None:
    pointless = AUDIT.judge(recorded("overload", facts={NO_USE: "no route"}))
    assert (pointless.outcome, pointless.display) == ("n-a", "no route")
    assert AUDIT.judge(recorded("overload", facts={NO_WAY: "too fast"})).display == "too fast"
    assert AUDIT.judge(recorded("baseline")).outcome == "not-measured"
    assert AUDIT.judge(recorded("overload", problem="it broke")).outcome == "not-measured"
