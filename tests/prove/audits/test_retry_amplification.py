"""retry-amplification: attempts of a request while it is down, against those in good times."""

import pytest

from stormproof.prove.audits.retry_amplification import AUDIT

from .records import USER, faced


@pytest.mark.parametrize(
    ("attempts", "fresh", "outcome"),
    [(2, 1, "pass"), (6, 1, "pass"), (7, 1, "fail"), (6, 3, "pass"), (0, 0, "pass")],
)
def test_three_attempts_for_each_usual_connection_pass(
    attempts: int, fresh: int, outcome: str
) -> None:
    counted = {"attempts": attempts, "requests": 2, "fresh": fresh}
    judgement = AUDIT.judge(faced(retries={USER: counted}))
    assert judgement.outcome == outcome


def test_it_says_how_often() -> None:
    counted = {"attempts": 18, "requests": 2, "fresh": 1}
    judgement = AUDIT.judge(faced(retries={USER: counted}))
    assert (
        judgement.display == "while it was down, GET /user tried DATABASE_URL 9.0 times a request"
    )
