"""Drain-budget on recordings built by hand."""

import pytest

from stormproof.prove._recording import Route
from stormproof.prove.audits.drain_budget import AUDIT

from .departures import event, lived, record, recording, request


def test_passes_when_the_server_is_gone_in_time_with_its_teardown_run() -> None:
    found = AUDIT.judge(recording(record(gone=9.9)))
    assert (found.outcome, found.value, found.limit) == ("pass", 9.9, 10.0)
    assert found.display == "gone 9.9 s after SIGTERM, of 10 s it has, its teardown run"


def test_a_killed_server_fails_and_the_requests_that_held_it_are_named() -> None:
    route = Route(id="GET /b", method="GET", path="/b", url="/b", where="app.py:3")
    rows = [request(-1.0, 0.5), request(-5.0, 10.0, ended="reset", route="GET /b", group="long")]
    killed = record(rows, gone=10.0, is_killed=True, events=lived("started"))
    found = AUDIT.judge(recording(killed, routes=[route]))
    assert (found.outcome, found.blame, found.stack) == ("fail", "app", ("app.py:3",))
    assert found.display == (
        "it was not gone 10 s after SIGTERM and had to be killed: held by 1 requests, GET /b 1"
    )
    assert found.losses == ("GET /b: open for 15.0 s when the process ended",)


def test_a_stream_that_holds_the_server_is_called_so() -> None:
    rows = [request(-5.0, 10.0, ended="truncated", group="stream")]
    killed = record(rows, name="drain-streams", gone=10.0, is_killed=True)
    found = AUDIT.judge(recording(record(gone=0.3), killed))
    assert found.outcome == "fail"
    assert "held by 1 streams" in found.display


def test_an_end_after_the_grace_fails_though_nobody_killed_it() -> None:
    found = AUDIT.judge(recording(record(gone=10.1)))
    assert found.outcome == "fail"
    assert found.display.startswith("it was gone 10.1 s after SIGTERM, of 10 s it has")


@pytest.mark.parametrize(
    ("events", "words", "blame"),
    [
        (lived("started", "stopping"), "its lifespan teardown had begun and did not end", "app"),
        (lived("started", "stopping", "stopped"), "a thread or a child process went on", "app"),
        (lived("started"), "its lifespan teardown never began", "app"),
    ],
)
def test_what_held_a_server_without_requests_is_named(
    events: list[object], words: str, blame: str
) -> None:
    killed = record(events=events, gone=10.0, is_killed=True)  # type: ignore[arg-type]
    found = AUDIT.judge(recording(killed))
    assert words in found.display
    assert found.blame == blame


def test_background_work_that_holds_the_server_is_named() -> None:
    events = [*lived("started"), event("background", -1.0, key="b1", what="accepted")]
    found = AUDIT.judge(recording(record(events=events, gone=10.0, is_killed=True)))
    assert "1 background tasks of answered requests went on" in found.display


def test_another_server_that_never_begins_the_teardown_is_to_blame_itself() -> None:
    killed = record(events=lived("started"), gone=10.0, is_killed=True)
    assert AUDIT.judge(recording(killed, server="hypercorn")).blame == "server"


def test_a_teardown_that_was_left_out_fails() -> None:
    found = AUDIT.judge(recording(record(events=lived("started"), gone=0.1)))
    assert (found.outcome, found.blame) == ("fail", "app")
    assert found.display == (
        "it was gone 0.1 s after SIGTERM with its lifespan teardown never begun"
    )
    begun = recording(record(events=lived("started", "stopping")), server="granian")
    assert (AUDIT.judge(begun).outcome, AUDIT.judge(begun).blame) == ("fail", "app")


def test_a_teardown_that_raises_fails() -> None:
    stopped = event("lifespan", 0.4, phase="stopped", error="RuntimeError: no")
    found = AUDIT.judge(recording(record(events=[*lived("started", "stopping"), stopped])))
    assert found.outcome == "fail"
    assert found.display == "its lifespan teardown raised: RuntimeError: no"


def test_one_worker_of_two_without_its_teardown_fails() -> None:
    other = event("lifespan", -9.0, pid=8, phase="started")
    events = [*lived("started", "stopping", "stopped"), other]
    assert AUDIT.judge(recording(record(events=events))).outcome == "fail"


def test_without_the_agent_only_the_exit_is_judged() -> None:
    found = AUDIT.judge(recording(record(events=[]), has_agent=False, server="command"))
    assert found.outcome == "pass"
    assert found.display == "gone 1.0 s after SIGTERM, of 10 s it has"


def test_is_not_measured_without_a_signal_or_when_the_attack_had_a_problem() -> None:
    assert AUDIT.judge(recording()).outcome == "not-measured"
    assert AUDIT.judge(recording(record(marks={}))).outcome == "not-measured"
    assert AUDIT.judge(recording(record(problem="it broke"))).outcome == "not-measured"
