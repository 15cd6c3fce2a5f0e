"""Drain-streams on recordings built by hand."""

from stormproof.prove import Recording
from stormproof.prove._recording import AttackRecord, Ended, Request, Route
from stormproof.prove.audits.drain_streams import AUDIT

from .departures import record, recording, request

ROUTE = Route(
    id="GET /s", method="GET", path="/s", url="/s", kind="endless", where="app.py:12"
)  # fmt: skip


def _stream(ended_at: float | None, ended: Ended = "complete", *, sent: float = -2.0) -> Request:
    return request(sent, ended_at, ended=ended, group="stream", route="GET /s")


def _recording(*rows: Request, **facts: int) -> Recording:
    return recording(_record(*rows, **facts), routes=[ROUTE])


def _record(*rows: Request, **facts: int) -> AttackRecord:
    words = {name.replace("_", "-"): value for name, value in facts.items()}
    return record(rows, name="drain-streams", facts=words)


def test_passes_when_each_stream_came_to_its_final_chunk() -> None:
    found = AUDIT.judge(_recording(_stream(0.5), _stream(1.5), sse=2, sse_retry=1))
    assert found.outcome == "pass"
    assert found.display == (
        "all 2 streams open at SIGTERM ended with a final chunk, 0.5 to 1.5 s after it; "
        "1 of 2 event streams said when to come back (retry:)"
    )


def test_a_cut_stream_is_lost() -> None:
    found = AUDIT.judge(_recording(_stream(0.5), _stream(10.0, "truncated")))
    assert (found.outcome, found.value) == ("fail", 1)
    assert found.display == (
        "1 of 2 streams open at SIGTERM did not end properly (1 cut in mid-answer), "
        "the last 10.0 s after it: GET /s 1"
    )
    assert found.stack == ("app.py:12",)
    (series,) = found.series
    assert series.marks == {"SIGTERM": 10.0, "gone": 11.0}
    assert series.points[0] == (8.0, 2.0)
    assert series.points[-1] == (12.0, 1.0)


def test_a_stream_that_ends_after_the_grace_is_lost() -> None:
    assert AUDIT.judge(_recording(_stream(10.0))).outcome == "pass"
    found = AUDIT.judge(_recording(_stream(10.1)))
    assert found.outcome == "fail"
    assert "(ended after the grace)" in found.display


def test_a_stream_that_had_ended_before_or_came_after_is_not_counted() -> None:
    rows = [_stream(-1.0, "truncated"), _stream(2.0, "reset", sent=0.1), _stream(1.0)]
    assert AUDIT.judge(_recording(*rows)).display.startswith("all 1 streams")


def test_does_not_apply_to_an_app_without_streams() -> None:
    assert AUDIT.judge(recording(record(name="drain-streams", marks={}))).outcome == "n-a"


def test_is_not_measured_without_a_signal_or_an_open_stream() -> None:
    assert AUDIT.judge(recording(routes=[ROUTE])).outcome == "not-measured"
    assert AUDIT.judge(_recording()).outcome == "not-measured"


def test_does_not_apply_to_streams_that_ended_by_themselves_before() -> None:
    assert AUDIT.judge(_recording(_stream(-1.0))).outcome == "n-a"
