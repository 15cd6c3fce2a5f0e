"""Drain-keepalive on recordings built by hand."""

from stormproof.prove.audits.drain_keepalive import AUDIT

from .departures import event, lived, record, recording, request


def test_passes_when_all_were_answered_or_the_client_knew_before() -> None:
    rows = [
        request(0.1, 0.2, group="kept", is_reused=True),
        request(0.5, 0.4, group="kept", is_reused=True, ended="unsent"),
    ]
    found = AUDIT.judge(recording(record(rows)))
    assert found.outcome == "pass"
    assert found.display == (
        "all 1 requests sent on kept connections were answered; 1 connections had been closed "
        "before"
    )


def test_a_request_on_its_way_when_the_server_closed_is_lost() -> None:
    rows = [
        request(0.1, 0.2, group="kept", is_reused=True),
        request(0.1, 0.1, group="kept", is_reused=True, ended="reset"),
    ]
    found = AUDIT.judge(recording(record(rows, facts={"trip": 0.02})))
    assert (found.outcome, found.value, found.blame) == ("fail", 1, "server")
    assert found.display == (
        "1 of 2 requests sent on kept connections after SIGTERM were lost (1 reset), "
        "by clients 20 ms away: GET /a 1"
    )


def test_a_connection_closed_under_a_request_sent_right_before_counts() -> None:
    rows = [request(-0.01, 0.05, is_reused=True, ended="reset")]
    assert AUDIT.judge(recording(record(rows))).outcome == "fail"


def test_what_the_app_had_begun_belongs_to_drain_in_flight() -> None:
    begun = event("request", 0.1, id=3, began=100.0, ended=100.2, how="cancelled")
    rows = [
        request(0.1, 0.2, is_reused=True),
        request(-0.05, 0.1, is_reused=True, ended="reset", id=3),
    ]
    events = [*lived("started", "stopping"), begun]
    assert AUDIT.judge(recording(record(rows, events=events))).outcome == "pass"


def test_is_not_measured_where_every_connection_was_closed_before() -> None:
    rows = [request(0.5, 0.4, group="kept", is_reused=True, ended="unsent")]
    assert AUDIT.judge(recording(record(rows))).outcome == "not-measured"
    assert AUDIT.judge(recording(record())).outcome == "not-measured"
    assert AUDIT.judge(recording()).outcome == "not-measured"
