"""concurrency-cliff: what more callers had, held against the best."""

from dataclasses import asdict
from typing import Any

import pytest

from stormproof.prove._recording import Recording
from stormproof.prove._sweep import FACT, Step, Sweep
from stormproof.prove.audits.concurrency_cliff import AUDIT

from .records import USER, event, recorded, request


def step(callers: int, rate: float, share: float = 1.0, **fields: Any) -> Step:
    known: dict[str, Any] = {
        "asked": 100,
        "errors": 0,
        "refused": 0,
        "unanswered": 0,
        "is_cpu_limited": False,
        "starved": 0.0,
    }
    return Step(callers=callers, rate=rate, share=share, **{**known, **fields})


def swept(*steps: Step, **fields: Any) -> Recording:
    sweep = Sweep(routes=(USER,), threads=40, pool=15, steps=steps)
    return recorded("concurrency", facts={FACT: asdict(sweep)}, **fields)


FLAT = (step(1, 100.0), step(40, 500.0), step(160, 480.0, 0.96))
CLIFF = (step(1, 100.0), step(40, 500.0), step(80, 4.0, 0.01, unanswered=80, asked=90))


def test_an_app_that_keeps_what_it_had_passes() -> None:
    judgement = AUDIT.judge(swept(*FLAT))
    assert judgement.outcome == "pass"
    assert judgement.display == (
        "160 callers had 480 answers/s, the best were 500 with 40 (40 threads, 15 connections)"
    )


def test_a_fall_is_told_with_its_numbers() -> None:
    judgement = AUDIT.judge(swept(*CLIFF))
    assert judgement.outcome == "fail"
    assert judgement.display == (
        "40 callers had 500 answers/s, 80 callers had 4: 80 of 90 requests had none within 2.5 s "
        "(40 threads, 15 connections)"
    )


@pytest.mark.parametrize(("share", "outcome"), [(0.7, "pass"), (0.69, "fail")])
def test_seven_tenths_of_the_best_are_wanted(share: float, outcome: str) -> None:
    assert AUDIT.judge(swept(*FLAT[:2], step(160, 500 * share, share))).outcome == outcome


def test_where_the_cpu_limits_half_of_the_best_is_enough() -> None:
    low = step(160, 300.0, 0.6, is_cpu_limited=True)
    assert AUDIT.judge(swept(*FLAT[:2], low)).outcome == "pass"


def test_few_callers_before_the_best_are_no_fall() -> None:
    assert AUDIT.judge(swept(step(1, 10.0, 0.02), *FLAT[1:])).outcome == "pass"


def test_errors_and_pool_time_outs_fail_whatever_the_rate() -> None:
    wrong = swept(*FLAT[:2], step(160, 480.0, errors=3))
    assert AUDIT.judge(wrong).outcome == "fail"
    assert "3 answers were status 500" in AUDIT.judge(wrong).display
    waited = swept(*FLAT, events=[event("pool-timeout", pool="p", route=USER, waited=30.0)])
    assert AUDIT.judge(waited).outcome == "fail"
    assert "1 waits for a connection ended in a time-out" in AUDIT.judge(waited).display


def test_a_machine_without_cpu_to_spare_is_blamed_for_a_loss_but_not_for_a_collapse() -> None:
    low = step(160, 200.0, 0.4, starved=0.3)
    assert AUDIT.judge(swept(*FLAT[:2], low)).outcome == "not-measured"
    assert AUDIT.judge(swept(*FLAT[:2], step(160, 5.0, 0.01, starved=0.3))).outcome == "fail"


def test_losses_are_counted_by_what_happened() -> None:
    late = [request("callers-80", ended="timeout", seconds=2.5)] * 7
    assert AUDIT.judge(swept(*CLIFF, requests=late)).losses == (
        "callers 80: GET /user: timeout, 7 times",
    )


def test_without_a_sweep_it_is_not_measured() -> None:
    assert AUDIT.judge(recorded("concurrency")).outcome == "not-measured"
    assert AUDIT.judge(swept(step(1, 0.0))).outcome == "not-measured"
