"""The well-known project template falls off a cliff, and its report says so first."""

import pytest

from stormproof.prove import PROFILES, ProveOptions, prove
from tests.prove.both_ways import ROOT
from tests.prove_apps.worlds import postgres


@pytest.mark.storm
@pytest.mark.timed
async def test_template_is_caught_by_the_concurrency_cliff() -> None:
    async with postgres() as environment:
        report = await prove(
            ProveOptions(
                app="tests.prove_apps.template.app:app",
                directory=ROOT,
                only=("concurrency-cliff",),
                is_quick=True,
                profile=PROFILES["docker"],
                environment=environment,
            )
        )
    (finding,) = report.findings
    assert finding.verdict == "fail", finding.judgement
    assert finding.title.startswith("With more callers at once the app hardly answers any")
    assert set(finding.judgement.routes) == {"GET /api/v1/items/", "GET /api/v1/users/me"}
