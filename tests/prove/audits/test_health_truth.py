"""health-truth: liveness stays, readiness turns and comes back, and both answer at once."""

from typing import Any

from stormproof.prove._recording import Recording, Request
from stormproof.prove.audits.health_truth import AUDIT

from .records import health_route, recorded, request

LIVE, READY = "GET /livez", "GET /readyz"
TWO = (health_route("/livez", "live"), health_route("/readyz", "ready"))
ONE = (health_route("/health", "both"),)


def live(**facts: Any) -> Request:
    return request("live:pool", route=LIVE, **{"at": 1.5, **facts})


def ready(status: int = 503, **facts: Any) -> Request:
    return request("ready:pool", route=READY, status=status, **{"at": 2.0, **facts})


def back(status: int = 200) -> Request:
    return request("ready-back:pool", route=READY, status=status, at=9.0)


def measured(*rows: Request, routes: Any = TWO) -> Recording:
    return recorded("health", requests=rows, routes=routes, marks={"pool-begun": 1.0})


def test_alive_and_not_ready_passes() -> None:
    judgement = AUDIT.judge(measured(live(), ready(200, at=1.0), ready(), back()))
    assert (judgement.outcome, judgement.display) == (
        "pass",
        "with the connection pool exhausted, liveness stayed 200 and readiness turned 503 "
        "within 1.0 s",
    )


def test_one_honest_route_for_both_passes() -> None:
    assert AUDIT.judge(measured(ready(), back(), routes=ONE)).outcome == "pass"


def test_a_constant_fails() -> None:
    judgement = AUDIT.judge(measured(ready(200), ready(200, at=6.0), routes=ONE))
    assert (judgement.outcome, judgement.display) == (
        "fail",
        "with the connection pool exhausted, readiness (GET /readyz) still said 200 after 5.0 s: "
        "traffic goes on to it",
    )


def test_a_liveness_that_asks_the_database_fails() -> None:
    judgement = AUDIT.judge(measured(live(status=503), ready(), back()))
    assert (judgement.outcome, "a restart follows" in judgement.display) == ("fail", True)


def test_a_probe_that_waits_for_the_pool_fails() -> None:
    judgement = AUDIT.judge(measured(live(), ready(seconds=1.2), back()))
    assert (judgement.outcome, "a probe waits 1 s" in judgement.display) == ("fail", True)


def test_a_readiness_that_does_not_come_back_fails() -> None:
    judgement = AUDIT.judge(measured(live(), ready(), back(503)))
    assert (judgement.outcome, "after the database was back" in judgement.display) == ("fail", True)


def test_no_readiness_at_all_fails() -> None:
    judgement = AUDIT.judge(measured(live(), routes=TWO[:1]))
    assert (judgement.outcome, "no readiness route" in judgement.display) == ("fail", True)


def test_without_health_routes_it_does_not_apply() -> None:
    assert AUDIT.judge(measured(routes=())).outcome == "n-a"


def test_without_a_database_it_does_not_apply() -> None:
    assert AUDIT.judge(recorded("health", routes=TWO)).outcome == "n-a"


def test_one_late_probe_of_many_is_the_machine() -> None:
    judgement = AUDIT.judge(measured(live(), live(seconds=1.3), live(), ready(), back()))
    assert judgement.outcome == "pass"


def test_probes_without_an_answer_fail() -> None:
    silent = live(ended="timeout", seconds=2.0)
    judgement = AUDIT.judge(measured(silent, silent, ready(), back()))
    assert (judgement.outcome, "liveness (GET /livez) did not answer" in judgement.display) == (
        "fail",
        True,
    )
