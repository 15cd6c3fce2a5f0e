"""dep-down: honest means 502, 503, 504, or 2xx; soon means within three seconds."""

import pytest

from stormproof.prove.audits.dep_down import AUDIT, SOON

from .records import faced, request


@pytest.mark.parametrize("status", [200, 502, 503, 504])
def test_an_honest_answer_passes(status: int) -> None:
    judgement = AUDIT.judge(faced(request("down", status=status, seconds=SOON)))
    assert judgement.outcome == "pass"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (request("down", status=500), "answered 500 after 0.01 s"),
        (request("down", status=503, seconds=SOON + 0.1), "answered 503 after 3.10 s"),
        (request("down", ended="reset"), "had its connection closed without an answer"),
        (request("down", ended="timeout", seconds=6.0), "was never answered"),
    ],
    ids=["500", "late", "reset", "hang"],
)
def test_anything_else_fails(wrong: object, words: str) -> None:
    good = request("down", status=503)
    judgement = AUDIT.judge(faced(good, wrong))  # type: ignore[arg-type]
    assert judgement.outcome == "fail"
    assert "with DATABASE_URL down, 1 of 2 requests" in judgement.display
    assert words in judgement.losses[0]


def test_a_process_that_ends_fails() -> None:
    judgement = AUDIT.judge(faced(request("down", ended="reset"), died="down"))
    assert (judgement.outcome, "the server ended" in judgement.display) == ("fail", True)


def test_an_answer_under_way_may_break_off() -> None:
    judgement = AUDIT.judge(faced(request("down", ended="truncated")))
    assert (judgement.outcome, judgement.display) == (
        "pass",
        "1 of 1 requests were answered honestly within 3 s while their dependency was down (0)",
    )
