"""Each audit fails the app that has exactly its defect and passes the app's sound twin."""

import pytest

from stormproof.prove import AUDITS
from tests.prove.both_ways import proved, variants

BY_ID = {audit.id: audit for audit in AUDITS}


def each(kind: str) -> pytest.MarkDecorator:
    """Give the test every app of a kind; those that are judged by the clock are marked so."""
    return pytest.mark.parametrize(
        ("id", "app"),
        [
            pytest.param(id, app, marks=[pytest.mark.timed] if audit.is_timed else [])
            for id, audit in BY_ID.items()
            for app in variants(id, kind)
        ],
    )


@pytest.mark.storm
@each("defect")
async def test_defect_is_found(id: str, app: str) -> None:
    finding = await proved(id, app)
    expected = "fail" if BY_ID[id].is_must else "should"
    assert finding.verdict == expected, finding.judgement


@pytest.mark.storm
@each("sound")
async def test_sound_twin_passes(id: str, app: str) -> None:
    finding = await proved(id, app)
    assert finding.verdict == "pass", finding.judgement


@pytest.mark.parametrize("id", BY_ID)
def test_every_audit_has_a_defect_and_a_sound_twin(id: str) -> None:
    assert variants(id, "defect")
    assert variants(id, "sound")
