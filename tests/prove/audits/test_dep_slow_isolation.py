"""dep-slow-isolation: five times the usual, or 250 ms, for half of the requests."""

from stormproof.prove._recording import Recording, Request
from stormproof.prove.audits.dep_slow_isolation import AUDIT

from .records import OTHER, faced, request


def others(phase: str, *seconds: float | None) -> list[Request]:
    return [
        request(f"{phase}-others", route=OTHER, seconds=one)
        if one is not None
        else request(f"{phase}-others", route=OTHER, seconds=3.0, ended="timeout")
        for one in seconds
    ]


def measured(usual: float, *slow: float | None) -> Recording:
    return faced(*others("before", *[usual] * 5), *others("slow", *slow))


def test_what_keeps_its_time_passes() -> None:
    judgement = AUDIT.judge(measured(0.01, *[0.02] * 8))
    assert (judgement.outcome, judgement.value, judgement.limit) == ("pass", 0.02, 0.25)


def test_what_is_slow_anyway_may_be_five_times_as_slow() -> None:
    assert AUDIT.judge(measured(0.1, *[0.5] * 8)).outcome == "pass"
    assert AUDIT.judge(measured(0.1, *[0.51] * 8)).outcome == "fail"


def test_a_noisy_machine_may_delay_a_few() -> None:
    assert AUDIT.judge(measured(0.01, *[0.01] * 5, 2.0, 2.0, 2.0)).outcome == "pass"


def test_a_route_that_starves_fails_and_is_named() -> None:
    judgement = AUDIT.judge(measured(0.01, 0.3, 1.0, 2.0, None, None, None))
    assert (judgement.outcome, judgement.routes) == ("fail", (OTHER,))
    assert "longer than the client waited while DATABASE_URL was slow" in judgement.losses[0]


def test_where_every_route_uses_it_there_is_nothing_to_isolate() -> None:
    assert AUDIT.judge(faced()).outcome == "n-a"
