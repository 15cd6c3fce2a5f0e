"""What all audits of dependencies say where there is nothing to judge."""

import pytest

from stormproof.prove._audit import Audit
from stormproof.prove.audits import (
    dep_blackhole,
    dep_down,
    dep_recovery,
    dep_slow_isolation,
    retry_amplification,
    upstream_reuse,
)

from .records import NAME, faced, recorded

AUDITS = [
    module.AUDIT
    for module in (
        dep_blackhole,
        dep_down,
        dep_recovery,
        dep_slow_isolation,
        retry_amplification,
        upstream_reuse,
    )
]
each_audit = pytest.mark.parametrize("audit", AUDITS, ids=lambda audit: audit.id)


@each_audit
def test_without_a_dependency_it_does_not_apply(audit: Audit) -> None:
    assert audit.judge(recorded("dependencies")).outcome == "n-a"


@each_audit
def test_an_attack_that_could_not_be_run_measures_nothing(audit: Audit) -> None:
    record = recorded("dependencies", problem="OSError: no", dependencies=(NAME,))
    judgement = audit.judge(record)
    assert (judgement.outcome, "OSError: no" in judgement.display) == ("not-measured", True)


@each_audit
def test_a_dependency_that_no_route_uses_does_not_count(audit: Audit) -> None:
    assert audit.judge(faced(users=[])).outcome == "n-a"


@each_audit
def test_without_a_request_nothing_is_said(audit: Audit) -> None:
    assert audit.judge(faced()).outcome in ("not-measured", "n-a")


@pytest.mark.parametrize(
    ("phase", "audit"),
    [
        ("slow", dep_slow_isolation.AUDIT),
        ("down", dep_down.AUDIT),
        ("refused", dep_down.AUDIT),
        ("blackhole", dep_blackhole.AUDIT),
    ],
)
def test_a_server_that_ends_fails_where_it_ended(phase: str, audit: Audit) -> None:
    judgement = audit.judge(faced(died=phase))
    assert (judgement.outcome, "the server ended" in judgement.display) == ("fail", True)
