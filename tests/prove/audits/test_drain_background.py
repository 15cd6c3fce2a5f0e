"""Drain-background on recordings built by hand."""

from dataclasses import replace
from typing import Any

import pytest

from stormproof.prove import Recording
from stormproof.prove._promises import FACT, Promise
from stormproof.prove._recording import AgentEvent, Request, Route
from stormproof.prove.audits.drain_background import AUDIT

from .departures import SIGNAL, event, record, recording, request

ANSWERED = request(-0.5, -0.4, status=202, id=5, route="POST /a")


def _told(what: str, *, kind: str = "background", at: float = -0.3, **facts: Any) -> AgentEvent:
    given = {"key": "b1", "id": 5, "route": "POST /a", "name": "send", "error": None, **facts}
    return event(kind, at, what=what, **given)


def _recording(*events: AgentEvent, rows: tuple[Request, ...] = (ANSWERED,)) -> Recording:
    return recording(record(rows, events=events))


def test_passes_when_all_that_was_accepted_was_finished() -> None:
    found = AUDIT.judge(_recording(_told("accepted"), _told("started"), _told("finished")))
    assert found.outcome == "pass"
    assert found.display == "all 1 acknowledged pieces of background work were done"


@pytest.mark.parametrize(
    ("whats", "error", "fate"),
    [
        (("accepted",), None, "never begun"),
        (("accepted", "started"), None, "unfinished when the process ended"),
        (("accepted", "started", "cancelled"), None, "cancelled"),
        (("accepted", "cancelled"), None, "dropped before it began"),
        (("accepted", "started", "failed"), "ConnectionError('no')", "failed with ConnectionError"),
    ],
)
def test_what_was_not_done_is_lost(whats: tuple[str, ...], error: str | None, fate: str) -> None:
    *first, last = whats
    events = [*(_told(what) for what in first), _told(last, error=error)]
    found = AUDIT.judge(_recording(*events))
    assert (found.outcome, found.value) == ("fail", 1)
    assert found.display == (
        f"1 of 1 acknowledged pieces of background work were not done (1 {fate}): "
        "send from POST /a 1"
    )
    assert found.losses[0].startswith(
        f"send from POST /a: answered 202 0.40 s before SIGTERM, {fate}"
    )


@pytest.mark.parametrize("what", ["handed-over", "handed_over"])
def test_work_that_was_handed_over_counts_as_done(what: str) -> None:
    assert AUDIT.judge(_recording(_told("accepted"), _told(what))).outcome == "pass"
    cancelled = _told("cancelled", error=what)
    assert AUDIT.judge(_recording(_told("accepted"), cancelled)).outcome == "pass"


def test_a_task_that_outlived_its_request_and_the_process_is_lost_with_its_line() -> None:
    task = _told("outlived", kind="task", file="app.py", line=9)
    found = AUDIT.judge(_recording(task))
    assert (found.outcome, found.stack) == ("fail", ("app.py:9",))
    assert AUDIT.judge(_recording(task, _told("finished", kind="task"))).outcome == "pass"


def test_one_task_for_many_requests_is_a_service_and_no_promise() -> None:
    rows = tuple(request(-0.5, -0.4, id=id, route="POST /a") for id in (5, 6, 7))
    task = _told("outlived", kind="task", file="app.py", line=9)
    work = [_told("accepted", key="b2"), _told("finished", key="b2")]
    assert AUDIT.judge(_recording(task, *work, rows=rows)).outcome == "pass"
    again = _told("outlived", kind="task", file="app.py", line=9, key="t2", id=6)
    assert AUDIT.judge(_recording(task, again, *work, rows=rows)).value == 2


def test_supervised_work_and_the_task_it_runs_as_are_one_piece() -> None:
    task = [_told("outlived", kind="task", key="t1"), _told("cancelled", kind="task", key="t1")]
    taken = [_told("accepted", key="s1"), _told("cancelled", key="s1", error="handed_over")]
    found = AUDIT.judge(_recording(*task, *taken))
    assert found.display == "all 1 acknowledged pieces of background work were done"
    other = _told("outlived", kind="task", key="t2", name="another")
    assert AUDIT.judge(_recording(*task, *taken, other)).value == 1


def test_a_task_beside_a_background_task_of_the_same_name_is_a_piece_of_its_own() -> None:
    task = [_told("outlived", kind="task", key="t1"), _told("cancelled", kind="task", key="t1")]
    done = [_told("accepted"), _told("finished")]
    assert AUDIT.judge(_recording(*task, *done)).value == 1


def test_work_of_a_request_that_was_not_answered_well_is_no_promise() -> None:
    done = [_told("accepted", id=6, key="b2"), _told("finished", id=6, key="b2")]
    good = request(-0.5, -0.4, id=6, route="POST /a")
    for bad in (
        request(-0.5, -0.4, status=500, id=5, route="POST /a"),
        request(-0.5, 0.4, ended="reset", id=5, route="POST /a"),
    ):
        found = AUDIT.judge(_recording(_told("accepted"), *done, rows=(bad, good)))
        assert found.display.startswith("all 1 acknowledged")


def test_the_same_key_in_two_processes_is_two_pieces() -> None:
    other = event("background", -0.3, pid=8, key="b1", id=5, what="accepted", name="send")
    found = AUDIT.judge(_recording(_told("accepted"), _told("finished"), other))
    assert (found.outcome, found.value) == ("fail", 1)


def test_an_event_of_the_warm_up_is_not_taken_for_a_later_request_of_its_number() -> None:
    found = AUDIT.judge(_recording(_told("accepted", at=-3.0)))
    assert found.outcome == "n-a"


def test_does_not_apply_where_nothing_is_started_in_the_background() -> None:
    assert AUDIT.judge(_recording()).outcome == "n-a"


def test_is_not_measured_where_known_background_work_was_not_seen_or_no_signal_sent() -> None:
    route = Route(id="POST /a", method="POST", path="/a", url="/a", uses=("background",))
    assert AUDIT.judge(recording(record(), routes=[route])).outcome == "not-measured"
    assert AUDIT.judge(recording()).outcome == "not-measured"
    assert AUDIT.judge(recording(record(marks={}))).outcome == "not-measured"


def _promise(*, is_kept: bool = True, seen: str = "", unclear: str = "") -> dict[str, Any]:
    promise = Promise(
        route="POST /a", status=202, at=SIGNAL - 0.4, is_kept=is_kept, seen=seen, unclear=unclear
    )
    return promise.as_facts()


def _looked_up(*promises: dict[str, Any], has_agent: bool = False) -> Recording:
    found = recording(record((), facts={FACT: list(promises)}))
    return replace(found, has_agent=has_agent)


def test_promises_that_are_found_after_a_restart_were_kept_also_without_the_agent() -> None:
    found = AUDIT.judge(_looked_up(_promise(), _promise()))
    assert (found.outcome, found.value) == ("pass", 0)
    assert found.display == "all 2 promises were kept when looked up after a restart"


def test_promise_that_is_not_found_after_a_restart_is_lost() -> None:
    lost = _promise(is_kept=False, seen="GET /a/7 said 404")
    found = AUDIT.judge(_looked_up(_promise(), lost))
    assert (found.outcome, found.value, found.routes) == ("fail", 1, ("POST /a",))
    assert found.display == (
        "1 of 2 promises were not kept when looked up after a restart: POST /a 1"
    )
    assert found.losses == (
        "POST /a: answered 202 0.40 s before SIGTERM; after a restart GET /a/7 said 404",
    )


def test_promise_that_cannot_be_looked_up_says_why() -> None:
    found = AUDIT.judge(_looked_up(_promise(unclear="the answer has no field 'id'")))
    assert (found.outcome, found.display) == ("not-measured", "the answer has no field 'id'")


def test_what_the_agent_saw_and_what_was_looked_up_are_judged_together() -> None:
    watched = record(
        (ANSWERED,),
        events=(_told("accepted"), _told("finished")),
        facts={FACT: [_promise(is_kept=False, seen="GET /a/7 said 404")]},
    )
    found = AUDIT.judge(recording(watched))
    assert (found.outcome, found.value) == ("fail", 1)
    assert found.display == (
        "1 of 1 promises were not kept when looked up after a restart: POST /a 1; "
        "all 1 acknowledged pieces of background work were done"
    )


def test_without_agent_and_without_lookups_it_is_not_measured() -> None:
    found = AUDIT.judge(replace(recording(record((ANSWERED,))), has_agent=False))
    assert found.outcome == "not-measured"
    assert "needs the agent" in found.display
