"""commit-before-ack: joined by the request's number, and only where rows were written."""

import pytest

from stormproof.prove._recording import Ended, Recording
from stormproof.prove.audits.commit_before_ack import AUDIT

from .records import USER, event, recorded, request


def measured(*, wrote: bool = True, status: int = 200, ended: Ended = "complete") -> Recording:
    failed = event("commit-failed", id=7, route=USER, wrote=wrote)
    rows = [
        request("commit", status=status, ended=ended, id=7),
        request("commit", status=200, id=8),
    ]
    return recorded("commit", requests=rows, events=[failed])


@pytest.mark.parametrize("status", [200, 201, 204])
def test_a_failed_commit_answered_as_done_fails(status: int) -> None:
    judgement = AUDIT.judge(measured(status=status))
    assert judgement.outcome == "fail"
    assert judgement.display == (
        f"1 of 1 requests whose COMMIT failed were answered {status}: GET /user"
    )


@pytest.mark.parametrize("status", [500, 503, 409])
def test_a_failed_commit_that_is_told_passes(status: int) -> None:
    assert AUDIT.judge(measured(status=status)).outcome == "pass"


def test_an_answer_that_breaks_off_is_told() -> None:
    assert AUDIT.judge(measured(ended="reset")).outcome == "pass"


def test_the_end_of_a_transaction_that_only_read_does_not_count() -> None:
    judgement = AUDIT.judge(measured(wrote=False))
    assert (judgement.outcome, "--writes" in judgement.display) == ("n-a", True)


def test_a_commit_without_a_request_does_not_count() -> None:
    failed = event("commit-failed", id=None, route=None, wrote=True)
    rows = [request("commit", id=8)]
    assert AUDIT.judge(recorded("commit", requests=rows, events=[failed])).outcome == "n-a"


def test_an_attack_that_could_not_be_run_measures_nothing() -> None:
    assert AUDIT.judge(recorded("commit", problem="no agent")).outcome == "not-measured"
