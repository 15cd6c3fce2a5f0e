"""Drain-late-arrivals on recordings built by hand."""

from stormproof.prove.audits.drain_late_arrivals import AUDIT

from .departures import record, recording, request


def test_passes_when_all_were_answered() -> None:
    found = AUDIT.judge(recording(record([request(0.5, 0.6), request(1.0, 1.1, status=404)])))
    assert found.outcome == "pass"
    assert found.display == "all 2 requests that came within 2 s of SIGTERM were answered"


def test_a_503_counts_as_told() -> None:
    found = AUDIT.judge(recording(record([request(0.5, 0.6, status=503)])))
    assert found.outcome == "pass"
    assert found.display.endswith("were answered, 1 of them with 503")


def test_a_refused_connection_is_lost_and_blamed_on_the_server() -> None:
    rows = [request(0.5, 0.6), request(0.7, 0.7, ended="refused")]
    found = AUDIT.judge(recording(record(rows)))
    assert (found.outcome, found.value, found.blame) == ("fail", 1, "server")
    assert found.display == (
        "1 of 2 requests that came within 2 s of SIGTERM on new connections were lost "
        "(1 refused): GET /a 1"
    )


def test_who_comes_after_the_lag_or_on_a_kept_connection_is_not_counted() -> None:
    rows = [
        request(2.0, 2.1),
        request(2.01, 2.1, ended="refused"),
        request(0.5, 0.5, ended="reset", is_reused=True),
    ]
    assert AUDIT.judge(recording(record(rows))).display.startswith("all 1 requests")


def test_does_not_apply_where_nothing_arrives_after_sigterm() -> None:
    rows = [request(0.5, 0.6, ended="refused")]
    assert AUDIT.judge(recording(record(rows), lag=0.0)).outcome == "n-a"


def test_is_not_measured_without_a_signal_or_without_a_request() -> None:
    assert AUDIT.judge(recording()).outcome == "not-measured"
    assert AUDIT.judge(recording(record(marks={}))).outcome == "not-measured"
    assert AUDIT.judge(recording(record())).outcome == "not-measured"
