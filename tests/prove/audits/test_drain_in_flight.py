"""Drain-in-flight on recordings built by hand."""

import pytest

from stormproof.prove._recording import Ended
from stormproof.prove.audits.drain_in_flight import AUDIT

from .departures import event, lived, record, recording, request


def test_passes_when_everything_in_flight_was_answered() -> None:
    found = AUDIT.judge(recording(record([request(-0.5, 0.4), request(-0.1, 0.4, status=404)])))
    assert (found.outcome, found.value) == ("pass", 0)
    assert found.display == "all 2 requests in flight at SIGTERM were answered"


@pytest.mark.parametrize("ended", ["reset", "truncated", "timeout"])
def test_a_cut_request_is_lost(ended: Ended) -> None:
    rows = [request(-0.5, 0.4), request(-0.5, 0.1, ended=ended, route="GET /b")]
    found = AUDIT.judge(recording(record(rows)))
    assert found.outcome == "fail"
    assert found.display.startswith("1 of 2 requests in flight at SIGTERM were lost (1 ")
    assert found.display.endswith("GET /b 1")
    assert found.routes == ("GET /b",)
    assert found.losses[0].startswith("GET /b: sent 0.50 s before SIGTERM, ")


def test_a_500_is_lost_and_is_the_apps() -> None:
    rows = [request(-0.5, 0.4, status=500)]
    found = AUDIT.judge(recording(record(rows), server="granian"))
    assert (found.outcome, found.blame) == ("fail", "app")


def test_a_route_that_answered_500_before_sigterm_too_is_not_counted_for_it() -> None:
    rows = [request(-2.0, -1.0, status=500), request(-0.5, 0.4, status=500)]
    assert AUDIT.judge(recording(record(rows))).outcome == "pass"


def test_what_was_answered_before_or_sent_after_is_not_in_flight() -> None:
    rows = [request(-1.0, -0.1), request(0.1, 0.2, ended="reset"), request(-0.5, 0.1)]
    assert AUDIT.judge(recording(record(rows))).display.startswith("all 1 requests")


def test_a_request_that_the_server_may_not_have_read_is_not_counted() -> None:
    rows = [request(-0.5, 0.1), request(-0.2, 0.1, ended="reset", id=3)]
    assert AUDIT.judge(recording(record(rows))).outcome == "pass"


def test_a_request_that_the_app_had_begun_counts_however_late_it_was_sent() -> None:
    begun = event("request", 0.1, id=3, began=100.0, ended=100.2, how="cancelled")
    rows = [request(-0.5, 0.1), request(-0.15, 0.1, ended="reset", id=3)]
    found = AUDIT.judge(recording(record(rows, events=[*lived("started", "stopping"), begun])))
    assert (found.outcome, found.value) == ("fail", 1)


def test_nothing_raced_where_the_app_never_began_to_shut_down() -> None:
    rows = [request(-0.2, 0.1, ended="reset")]
    found = AUDIT.judge(recording(record(rows, events=lived("starting", "started"))))
    assert (found.outcome, found.blame) == ("fail", "app")


def test_is_not_measured_without_a_signal_or_without_a_request() -> None:
    assert AUDIT.judge(recording()).outcome == "not-measured"
    assert AUDIT.judge(recording(record(marks={}))).outcome == "not-measured"
    assert AUDIT.judge(recording(record())).outcome == "not-measured"
