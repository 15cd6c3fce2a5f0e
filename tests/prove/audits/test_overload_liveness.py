"""overload-liveness: at how many moments a probe would have been missed."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from stormproof.prove._recording import Probe
from stormproof.prove.audits.overload_liveness import AUDIT

from .overloads import overloaded


def probes(*, seconds: float = 0.01, status: int = 200) -> Iterable[Probe]:
    return [Probe(10.0 + n / 10, seconds, status) for n in range(50)]


def test_probes_that_are_answered_pass() -> None:
    judgement = AUDIT.judge(overloaded(probes=probes(seconds=0.2)))
    assert judgement.outcome == "pass"
    assert judgement.display == (
        "GET /livez: 0 of 50 probes took more than 1 s or were not 2xx, the slowest 0.20 s; "
        "GET /user offered 250/s at a capacity of 100/s"
    )


@pytest.mark.parametrize("status", [0, 404, 503])
def test_probes_that_are_not_2xx_fail(status: int) -> None:
    judgement = AUDIT.judge(overloaded(probes=probes(status=status)))
    assert (judgement.outcome, judgement.value) == ("fail", pytest.approx(1.0))


def test_a_late_answer_is_missed_by_those_who_asked_long_before_it() -> None:
    """Stuck for 1.9 s of 5 s: whoever asked in the first 0.9 s missed a second."""
    stuck = [Probe(10.0, 0.01, 200), Probe(10.1, 1.9, 200), Probe(12.0, 0.01, 200)]
    judgement = AUDIT.judge(overloaded(probes=stuck))
    assert (judgement.outcome, judgement.value) == ("pass", pytest.approx(0.18))


def test_an_app_that_is_stuck_again_and_again_fails() -> None:
    stuck = [Probe(10.0, 1.9, 200), Probe(12.0, 1.9, 200), Probe(14.0, 0.9, 200)]
    assert AUDIT.judge(overloaded(probes=stuck)).outcome == "fail"


def test_probes_outside_the_overload_do_not_count() -> None:
    others = [Probe(9.0, 0.0, 0), *probes(), Probe(15.1, 0.0, 0)]
    assert AUDIT.judge(overloaded(probes=others)).outcome == "pass"


def test_without_a_liveness_route_there_is_nothing_to_say() -> None:
    recording = replace(overloaded(probes=probes(status=404)), routes=())
    assert AUDIT.judge(recording).outcome == "n-a"


def test_an_app_that_only_computes_may_be_late_but_not_wrong() -> None:
    stuck = [Probe(10.0, 1.9, 200), Probe(12.0, 1.9, 200)]
    assert AUDIT.judge(overloaded(probes=stuck, limited_by="cpu")).outcome == "n-a"
    wrong = overloaded(probes=probes(status=503), limited_by="cpu")
    assert AUDIT.judge(wrong).outcome == "fail"
