"""leak-free, on recordings built by hand."""

from typing import Any

import pytest

from stormproof.prove import Judgement
from stormproof.prove._recording import AgentEvent, Request
from stormproof.prove.audits.leak_free import AUDIT
from tests.prove.audits.visits import (
    census,
    checkout,
    event,
    handled,
    record,
    recording,
    request,
)


def judged(
    after: dict[str, Any],
    *events: AgentEvent,
    before: dict[str, Any] | None = None,
    requests: list[Request] | None = None,
    filled: dict[str, Any] | None = None,
    name: str = "clients",
) -> Judgement:
    before = before or census()
    filled = filled or before
    facts = {
        "census-before": before,
        "census-warm": filled,
        "census-steady": filled,
        "census-after": after,
    }
    played = record(name, requests=requests or [request("others")], events=events, facts=facts)
    return AUDIT.judge(recording(played))


def test_everything_back_passes() -> None:
    judgement = judged(census())
    assert judgement.outcome == "pass"
    assert judgement.display.endswith("were back after clients")


def test_connection_that_never_came_back_is_named() -> None:
    judgement = judged(census(checkouts=[checkout(1), checkout(2, record=2)]))
    assert judgement.outcome == "fail"
    assert judgement.display == (
        "2 database connections never came back after clients: GET /menu 2 times"
    )
    assert judgement.stack == ("a.py:1 in f",)


def test_connection_at_work_or_older_or_of_no_request_is_no_leak() -> None:
    assert judged(census(checkouts=[checkout(1, held=0.5)])).outcome == "pass"
    assert judged(census(checkouts=[checkout(None, route=None)])).outcome == "pass"
    old = census(checkouts=[checkout(1)])
    assert judged(old, before=old).outcome == "pass"


@pytest.mark.parametrize(
    ("what", "name", "allowed"),
    [
        ("tasks", "clients", 5),
        ("tasks", "overload", 20),
        ("fds", "clients", 12),
        ("fds", "baseline", 12),
        ("fds", "overload", 250),
        ("threads", "clients", 80),
    ],
)
def test_growth_up_to_the_allowance_passes(what: str, name: str, allowed: int) -> None:
    before = census(tasks=0, fds=0, threads=0)
    for growth, outcome in ((allowed, "pass"), (allowed + 1, "fail")):
        judgement = judged(before | {what: growth}, before=before, name=name)
        assert judgement.outcome == outcome
        assert judgement.value == (0 if outcome == "pass" else growth)


def test_descriptors_that_pools_kept_of_a_burst_are_no_leak() -> None:
    filled = census(fds=90)
    assert judged(census(fds=95), filled=filled).outcome == "pass"
    assert judged(census(fds=110), filled=filled).outcome == "fail"


def test_tasks_that_a_burst_left_are_counted() -> None:
    assert judged(census(tasks=90), filled=census(tasks=90)).outcome == "fail"


def test_leaked_tasks_are_named() -> None:
    after = census(tasks=32) | {"tasks_by_name": {"serve": 2, "watch": 30}}
    assert judged(after).display == (
        "30 tasks more than before were left after clients (2 → 32, 1 requests): 30 of watch"
    )


def test_work_of_a_kind_that_is_seen_to_end_is_no_leak() -> None:
    def work(key: int, what: str) -> AgentEvent:
        return event("task", key=key, what=what, name="send", file="a.py", line=3, id=key)

    running = [work(key, "outlived") for key in range(10)]
    assert judged(census(tasks=12), *running).outcome == "fail"
    assert judged(census(tasks=12), *running, work(99, "finished")).outcome == "pass"


def test_slow_handler_of_a_client_who_left_is_no_leak() -> None:
    left = [request("left", id=n, ended="left", has_begun=False, status=0) for n in range(1, 11)]
    assert judged(census(tasks=12), requests=left).outcome == "pass"
    ended = [handled(n, began=1.0, ended=2.0) for n in range(1, 11)]
    assert judged(census(tasks=12), *ended, requests=left).outcome == "fail"


def test_attack_without_a_count_at_its_end_is_not_judged() -> None:
    drained = record("drain", facts={"census-before": census()})
    assert AUDIT.judge(recording(drained)).outcome == "not-measured"
