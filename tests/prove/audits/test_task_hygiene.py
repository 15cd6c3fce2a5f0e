"""task-hygiene, on recordings built by hand."""

from typing import Any

from stormproof.prove import Judgement
from stormproof.prove._recording import AgentEvent
from stormproof.prove.audits.task_hygiene import AUDIT
from tests.prove.audits.visits import event, record, recording


def fault(at: float = 5.0, kind: str = "hygiene", **changed: Any) -> AgentEvent:
    facts = {
        "what": "never-awaited",
        "message": "coroutine 'audit' was never awaited",
        "route": "GET /a",
        "file": "/srv/app.py",
        "line": 9,
    }
    return event(kind, at, **(facts | changed))


def judged(*events: AgentEvent, name: str = "clients") -> Judgement:
    return AUDIT.judge(recording(record(name, events=events)))


def test_forgotten_coroutine_is_named_once_with_its_number() -> None:
    judgement = judged(fault(), fault())
    assert judgement.outcome == "fail"
    assert judgement.display == (
        "2 times a coroutine was never awaited, so its work was never done, /srv/app.py:9 "
        "(GET /a): coroutine 'audit' was never awaited"
    )
    assert judgement.value == 2
    assert judgement.stack == ("/srv/app.py:9",)


def test_each_kind_is_a_line_and_the_most_frequent_is_first() -> None:
    lost = fault(what="never-retrieved", message="Boom()")
    judgement = judged(fault(), lost, lost)
    assert judgement.display.startswith("2 times a task failed")
    assert judgement.display.endswith("and 1 other kinds")
    assert len(judgement.losses) == 2


def test_fault_that_nothing_of_the_app_is_named_for_is_not_counted() -> None:
    assert judged(fault(route=None, file=None)).outcome == "pass"
    library = "/venv/lib/python3.13/site-packages/asyncpg/protocol.py"
    assert judged(fault(route=None, file=library)).outcome == "pass"


def test_fault_of_a_library_in_a_request_counts_where_nothing_was_broken() -> None:
    library = fault(file="/venv/lib/python3.13/site-packages/httpx2/_client.py")
    assert judged(library).outcome == "fail"
    assert judged(library, name="dependencies").outcome == "pass"
    assert judged(fault(), name="dependencies").outcome == "fail"


def test_faults_while_the_app_ends_are_left_out() -> None:
    stopping = event("lifespan", 4.0, phase="stopping")
    assert judged(stopping, fault(what="destroyed-pending")).outcome == "pass"


def test_failed_task_counts_under_light_load_only() -> None:
    failed = fault(kind="task", what="failed", name="send")
    assert judged(failed, name="baseline").outcome == "fail"
    assert judged(failed, name="clients").outcome == "pass"
    assert judged(fault(kind="task", what="finished"), name="baseline").outcome == "pass"


def test_nothing_played_is_not_measured() -> None:
    assert AUDIT.judge(recording(record(problem="it broke"))).outcome == "not-measured"
