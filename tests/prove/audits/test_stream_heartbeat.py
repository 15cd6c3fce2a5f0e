"""stream-heartbeat, on recordings built by hand."""

from typing import Any

from stormproof.prove import Judgement
from stormproof.prove.audits.stream_heartbeat import AUDIT
from tests.prove.audits.visits import record, recording


def stream(silence: float, *, status: int = 200) -> dict[str, Any]:
    return {"route": "GET /events", "status": status, "silence": silence, "pieces": 1}


def judged(*streams: dict[str, Any]) -> Judgement:
    return AUDIT.judge(recording(record("patience", facts={"streams": list(streams)})))


def test_silent_stream_fails() -> None:
    judgement = judged(stream(20.0), stream(15.0))
    assert judgement.outcome == "fail"
    assert judgement.display == (
        "1 of 2 streams were silent for 20 s: GET /events: no byte for 20 s, 1 pieces"
    )


def test_stream_with_a_heartbeat_passes() -> None:
    judgement = judged(stream(15.1))
    assert judgement.outcome == "pass"
    assert judgement.display == "1 of 1 streams sent something at least every 15.1 s"


def test_app_without_streams_is_not_judged() -> None:
    assert judged().outcome == "n-a"
    assert judged(stream(21.0, status=503)).outcome == "n-a"


def test_attack_that_was_not_played_is_not_measured() -> None:
    assert AUDIT.judge(recording()).outcome == "not-measured"
