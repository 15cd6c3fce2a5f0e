"""Judging: every audit asked about a recording, the rounds held against each other, the score."""

import shlex
from collections.abc import Iterable, Sequence

from ._audit import Audit, Finding, Judgement, Report, Verdict, not_applicable, not_measured
from ._recording import Recording
from .audits import AUDITS

_ORDER: Sequence[Verdict] = ("fail", "should", "unstable", "pass", "n-a", "not-measured")


def chosen(
    only: Iterable[str] = (), skip: Iterable[str] = (), *, audits: Sequence[Audit] = AUDITS
) -> tuple[Audit, ...]:
    """Return the audits that are asked for; the ids have been checked."""
    wanted, left_out = frozenset(only), frozenset(skip)
    return tuple(
        audit for audit in audits if (not wanted or audit.id in wanted) and audit.id not in left_out
    )


def judge(
    recording: Recording,
    *,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    audits: Sequence[Audit] = AUDITS,
) -> Report:
    """Return what the audits find in a recording: a pure function, so it can be asked again."""
    findings = [_found(audit, recording) for audit in chosen(only, skip, audits=audits)]
    findings.sort(key=lambda finding: (_ORDER.index(finding.verdict), -finding.audit.weight))
    return Report(
        recording=recording,
        findings=tuple(findings),
        score=_score(recording, findings),
        notes=recording.notes,
    )


def is_to_repeat(finding: Finding) -> bool:
    """Whether noise could have failed it, so that it has to fail again before it counts."""
    return finding.audit.is_timed and finding.judgement.outcome == "fail"


def _found(audit: Audit, recording: Recording) -> Finding:
    rounds = 1
    if audit.is_timed:
        rounds = max((recording.rounds(name) for name in audit.attacks), default=1)
    judgements = [_judged(audit, recording.in_round(number)) for number in range(max(rounds, 1))]
    last = judgements[-1]
    verdict: Verdict
    outcomes = {judgement.outcome for judgement in judgements}
    if len(outcomes) > 1 and "fail" in outcomes:
        verdict = "unstable"
        last = next(judgement for judgement in judgements if judgement.outcome == "fail")
    elif last.outcome == "fail":
        verdict = "fail" if audit.is_must else "should"
    else:
        verdict = last.outcome
    return Finding(
        audit=audit,
        verdict=verdict,
        judgement=last,
        repro=_repro(audit, recording),
        rounds=len(judgements),
    )


def _judged(audit: Audit, recording: Recording) -> Judgement:
    if audit.needs_agent and not recording.has_agent:
        return not_measured("needs the agent inside the app, which was not there")
    if len(audit.attacks) == 1 and (attack := recording.attack(audit.attacks[0])) is not None:
        if attack.problem:
            return not_measured(f"the attack {attack.name} could not be run: {attack.problem}")
        if attack.unfit:
            return not_applicable(attack.unfit)
    return audit.judge(recording)


def _repro(audit: Audit, recording: Recording) -> str:
    words = ["stormproof", "prove"]
    words += ["--command", recording.app] if recording.server == "command" else [recording.app]
    if recording.server not in ("uvicorn", "command"):
        words += ["--server", recording.server]
    if (profile := recording.profile.get("name", "k8s")) != "k8s":
        words += ["--profile", str(profile)]
    if scenario := recording.profile.get("scenario"):
        words += ["--scenario", str(scenario)]
    if recording.profile.get("with_writes"):
        words.append("--writes")
    return shlex.join([*words, "--only", audit.id])


def _score(recording: Recording, findings: Iterable[Finding]) -> int | None:
    """Return the share of the weights that passed, a MUST counting three times, 0 to 100.

    None without one good answer to a real route: an app that answers nothing breaks nothing.
    """
    routes = {route.id for route in recording.routes if route.kind not in ("health", "broken")}
    has_traffic = any(
        request.is_good and request.route in routes
        for attack in recording.attacks
        for request in attack.requests
    )
    passed = total = 0
    for finding in findings:
        if finding.verdict in ("pass", "fail", "should"):
            weight = finding.audit.weight * (3 if finding.audit.is_must else 1)
            total += weight
            passed += weight if finding.verdict == "pass" else 0
    return round(100 * passed / total) if has_traffic and total else None
