"""pool-hold: what is typical of a route under light load."""

import pytest

from stormproof.prove._recording import AgentEvent, Recording
from stormproof.prove.audits.pool_hold import AUDIT

from .records import USER, event, recorded, request


def hold(held: float, idle: float) -> AgentEvent:
    return event(
        "hold",
        id=1,
        route=USER,
        held=held,
        idle=idle,
        longest_idle=idle,
        stack=["app.py:7 in paid"],
    )


def measured(*holds: AgentEvent) -> Recording:
    return recorded("baseline", requests=[request("steady", id=1)], events=holds)


@pytest.mark.parametrize(
    ("held", "idle", "outcome"),
    [
        (0.005, 0.004, "pass"),  # Python between two statements
        (0.039, 0.038, "pass"),
        (0.05, 0.024, "pass"),
        (0.06, 0.031, "fail"),
        (2.0, 0.2, "pass"),  # long work
        (2.0, 0.26, "fail"),
    ],
)
def test_idle_time_and_its_share_are_bounded(held: float, idle: float, outcome: str) -> None:
    assert AUDIT.judge(measured(*[hold(held, idle)] * 3)).outcome == outcome


def test_a_busy_machine_may_lengthen_some() -> None:
    judgement = AUDIT.judge(measured(*[hold(0.01, 0.002)] * 3, *[hold(0.5, 0.4)] * 2))
    assert judgement.outcome == "pass"


def test_it_says_how_long_and_where() -> None:
    judgement = AUDIT.judge(measured(*[hold(0.1, 0.08)] * 3))
    assert judgement.display == (
        "1 of 1 routes hold a connection while no statement runs: GET /user holds a connection "
        "for 100 ms, 80 ms of it (80 %) without a statement"
    )
    assert judgement.stack == ("app.py:7 in paid",)


def test_holds_outside_the_light_load_do_not_count() -> None:
    other = event("hold", id=2, route=USER, held=9.0, idle=9.0, longest_idle=9.0, stack=[])
    assert AUDIT.judge(measured(other, other, other)).outcome == "n-a"


def test_crumbs_of_a_busy_machine_are_no_wait() -> None:
    crumbs = event("hold", id=1, route=USER, held=0.06, idle=0.05, longest_idle=0.02, stack=[])
    assert AUDIT.judge(measured(crumbs, crumbs, crumbs)).outcome == "pass"
