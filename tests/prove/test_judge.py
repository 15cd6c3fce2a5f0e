"""Judging: verdicts from outcomes, rounds held against each other, the order, the score."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from stormproof.prove import Audit, Judgement, Recording, Route
from stormproof.prove._judge import is_to_repeat, judge
from stormproof.prove._recording import AttackRecord, Request


def audit(
    id: str,
    judged: Callable[[Recording], Judgement],
    *,
    is_must: bool = True,
    is_timed: bool = False,
    needs_agent: bool = False,
    weight: int = 3,
) -> Audit:
    return Audit(
        id=id,
        is_must=is_must,
        passing="It holds.",
        failing="It does not hold.",
        why="",
        fixes=(),
        attacks=("storm",),
        judge=judged,
        is_timed=is_timed,
        needs_agent=needs_agent,
        weight=weight,
    )


def says(outcome: str) -> Callable[[Recording], Judgement]:
    return lambda _: Judgement(outcome=outcome, display=outcome)  # type: ignore[arg-type]


def by_round(recording: Recording) -> Judgement:
    """Judge as the attack's facts of the last round say."""
    attack = recording.attack("storm")
    assert attack is not None
    return Judgement(outcome=attack.facts["outcome"], display="")


def recording(*outcomes: str, has_agent: bool = True, problem: str = "") -> Recording:
    good = Request(
        id=1,
        route="GET /",
        group="steady",
        intended_at=0.0,
        sent_at=0.0,
        first_byte_at=0.1,
        last_byte_at=0.1,
        status=200,
        ended="complete",
    )
    attacks = [
        AttackRecord(
            name="storm",
            round=number,
            facts={"outcome": outcome},
            requests=(good,),
            problem=problem,
        )
        for number, outcome in enumerate(outcomes or ("pass",))
    ]
    return Recording(
        app="main:app",
        server="uvicorn",
        stormproof="0",
        started="",
        machine={},
        profile={"name": "k8s"},
        has_agent=has_agent,
        routes=(Route(id="GET /", method="GET", path="/", url="/"),),
        attacks=tuple(attacks),
    )


@pytest.mark.parametrize(
    ("outcome", "is_must", "verdict"),
    [
        ("pass", True, "pass"),
        ("fail", True, "fail"),
        ("fail", False, "should"),
        ("n-a", True, "n-a"),
        ("not-measured", True, "not-measured"),
    ],
)
def test_verdict_is_the_outcome_with_must_or_should(
    outcome: str, is_must: bool, verdict: str
) -> None:
    report = judge(recording(), audits=[audit("a", says(outcome), is_must=is_must)])
    assert [finding.verdict for finding in report.findings] == [verdict]


@pytest.mark.parametrize(
    ("rounds", "verdict"),
    [
        (["fail"], "fail"),
        (["fail", "fail", "fail"], "fail"),
        (["fail", "pass"], "unstable"),
        (["fail", "fail", "pass"], "unstable"),
        (["pass"], "pass"),
    ],
)
def test_timed_audit_fails_only_unanimously(rounds: list[str], verdict: str) -> None:
    report = judge(recording(*rounds), audits=[audit("a", by_round, is_timed=True)])
    assert report.findings[0].verdict == verdict
    assert report.findings[0].rounds == len(rounds)
    assert bool(report.failed) == (verdict == "fail")


def test_only_what_noise_could_fail_is_repeated() -> None:
    report = judge(
        recording("fail"),
        audits=[audit("timed", by_round, is_timed=True), audit("counted", by_round)],
    )
    assert {f.audit.id for f in report.findings if is_to_repeat(f)} == {"timed"}


def test_untimed_audit_is_judged_by_the_first_round() -> None:
    report = judge(recording("pass", "fail"), audits=[audit("a", by_round)])
    assert report.findings[0].verdict == "pass"


def test_audit_that_needs_the_agent_is_not_measured_without_it() -> None:
    report = judge(recording(has_agent=False), audits=[audit("a", says("fail"), needs_agent=True)])
    assert report.findings[0].verdict == "not-measured"


def test_audit_of_an_attack_that_could_not_run_is_not_measured() -> None:
    report = judge(recording(problem="no streams"), audits=[audit("a", says("fail"))])
    assert report.findings[0].verdict == "not-measured"
    assert "no streams" in report.findings[0].judgement.display


def test_audit_of_an_attack_that_had_nothing_to_do_is_not_applicable() -> None:
    found = recording()
    unfit = replace(found, attacks=(AttackRecord(name="storm", unfit="no route streams"),))
    report = judge(unfit, audits=[audit("a", says("fail"))])
    assert report.findings[0].verdict == "n-a"
    assert report.findings[0].judgement.display == "no route streams"


def test_worst_comes_first_and_heavier_before_lighter() -> None:
    report = judge(
        recording(),
        audits=[
            audit("passed", says("pass")),
            audit("light", says("fail"), weight=1),
            audit("should", says("fail"), is_must=False),
            audit("heavy", says("fail"), weight=5),
        ],
    )
    assert [f.audit.id for f in report.findings] == ["heavy", "light", "should", "passed"]


def test_score_counts_a_must_three_times_and_leaves_out_what_was_not_judged() -> None:
    report = judge(
        recording(),
        audits=[
            audit("a", says("pass"), weight=1),
            audit("b", says("fail"), is_must=False, weight=1),
            audit("c", says("n-a"), weight=9),
        ],
    )
    assert report.score == 75


def test_no_score_without_one_good_answer() -> None:
    empty = recording()
    without = replace(empty, attacks=(AttackRecord(name="storm"),))
    assert judge(without, audits=[audit("a", says("pass"))]).score is None


def test_repro_is_one_command_that_names_the_audit() -> None:
    report = judge(recording(), audits=[audit("a", says("fail"))])
    assert report.findings[0].repro == "stormproof prove main:app --only a"
