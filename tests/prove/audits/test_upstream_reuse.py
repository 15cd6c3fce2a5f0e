"""upstream-reuse: at most one new connection for five requests."""

import pytest

from stormproof.prove.audits.upstream_reuse import AUDIT

from .records import USER, faced


@pytest.mark.parametrize(
    ("opened", "requests", "outcome"),
    [(0, 50, "pass"), (12, 50, "pass"), (13, 50, "fail"), (5, 5, "fail"), (4, 4, "not-measured")],
)
def test_connections_are_counted_against_requests(opened: int, requests: int, outcome: str) -> None:
    judgement = AUDIT.judge(faced(reuse={USER: {"opened": opened, "requests": requests}}))
    assert judgement.outcome == outcome


def test_it_says_how_many() -> None:
    judgement = AUDIT.judge(faced(reuse={USER: {"opened": 20, "requests": 20}}))
    assert judgement.display == "GET /user opened 20 connections to DATABASE_URL for 20 requests"
