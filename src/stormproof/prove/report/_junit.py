"""JUnit XML: one test case an audit, for the CI systems that draw a table from it."""

from datetime import UTC, datetime
from xml.etree import ElementTree as xml

from stormproof.prove._audit import Finding, Report

from ._words import (
    clean,
    docs_page,
    losses,
    machine_line,
    measured_line,
    one_line,
    own_places,
    profile_line,
    score_line,
    took,
)

_SKIPPED = ("n-a", "not-measured", "unstable")


def as_junit(report: Report) -> str:
    """Return the report as JUnit XML.

    A MUST that failed is a failure; a SHOULD passes with a word in `system-out`; what does not
    apply, was not measured or is unstable is skipped and says why.
    """
    recording = report.recording
    sums = {
        "tests": str(len(report.findings)),
        "failures": str(len(report.failed)),
        "errors": "0",
        "skipped": str(sum(finding.verdict in _SKIPPED for finding in report.findings)),
        "time": f"{took(recording):.3f}",
    }
    root = xml.Element("testsuites", {"name": "stormproof prove", **sums})
    named = {"name": f"stormproof prove {one_line(recording.app)}", **sums}
    suite = xml.SubElement(root, "testsuite", {**named, **_timestamp(recording.started)})
    properties = xml.SubElement(suite, "properties")
    for name, value in (
        ("server", recording.server),
        ("stormproof", recording.stormproof),
        ("machine", machine_line(recording)),
        ("profile", profile_line(recording)),
        ("score", score_line(report)),
    ):
        xml.SubElement(properties, "property", {"name": name, "value": one_line(value)})
    for finding in report.findings:
        _add_case(suite, finding)
    xml.indent(root)
    text = xml.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _add_case(suite: xml.Element, finding: Finding) -> None:
    named = {"classname": "stormproof.prove", "name": finding.audit.id, "time": "0"}
    case = xml.SubElement(suite, "testcase", named)
    display = one_line(finding.judgement.display)
    if finding.verdict == "fail":
        failure = xml.SubElement(case, "failure", {"message": display, "type": "MUST"})
        failure.text = _story(finding)
    elif finding.verdict in _SKIPPED:
        words = {"n-a": "does not apply", "not-measured": "not measured"}
        word = words.get(finding.verdict, "unstable: the rounds disagreed")
        xml.SubElement(case, "skipped", {"message": f"{word}: {display}"})
    elif finding.verdict == "should":
        xml.SubElement(case, "system-out").text = _story(finding)


def _story(finding: Finding) -> str:
    """Return what a person needs who sees only this entry."""
    judgement = finding.judgement
    parts = [
        finding.title,
        judgement.display,
        f"measured: {measured_line(finding)}" if judgement.value is not None else "",
        *(f"lost: {loss}" for loss in losses(finding)),
        *(f"where: {place}" for place in reversed(own_places(finding))),
        f"why: {finding.audit.why}",
        f"again: {finding.repro}",
        f"fix: {docs_page(finding)}",
    ]
    return clean("\n".join(part for part in parts if part))


def _timestamp(started: str) -> dict[str, str]:
    """Return the time as the schema wants it: without a zone, so in UTC."""
    try:
        moment = datetime.fromisoformat(started)
    except ValueError:
        return {}
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return {"timestamp": moment.replace(tzinfo=None).isoformat(timespec="seconds")}
