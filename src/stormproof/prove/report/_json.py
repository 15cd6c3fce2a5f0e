"""JSON: the report for other programs; `schema` changes when a name or a meaning does."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from stormproof.prove._audit import Finding, Report
from stormproof.prove._audit import as_json as plain
from stormproof.prove._recording import Recording

from ._words import counts, took

SCHEMA = 1
_SURROGATES = re.compile("[\ud800-\udfff]")


def as_json(report: Report) -> str:
    """Return the report as JSON: ASCII, indented, without NaN or infinity (they become null)."""
    recording = report.recording
    value = {
        "schema": SCHEMA,
        "app": recording.app,
        "server": recording.server,
        "stormproof": recording.stormproof,
        "started": recording.started,
        "seconds": took(recording),
        "machine": plain(recording.machine),
        "profile": plain(recording.profile),
        "baseline": _baseline(recording),
        "verdicts": counts(report),
        "audits": [_audit(finding) for finding in report.findings],
        "score": report.score,
        "notes": list(report.notes),
    }
    return json.dumps(_strict(value), indent=2, allow_nan=False) + "\n"


def _baseline(recording: Recording) -> dict[str, Any]:
    attack = recording.attack("baseline")
    return {
        "has_agent": recording.has_agent,
        "dependencies": list(recording.dependencies),
        "routes": [
            {
                "id": route.id,
                "kind": route.kind,
                "status": route.status,
                "seconds": route.seconds,
                "uses": list(route.uses),
            }
            for route in recording.routes
        ],
        "facts": plain(attack.facts) if attack else {},
    }


def _audit(finding: Finding) -> dict[str, Any]:
    audit, judgement = finding.audit, finding.judgement
    return {
        "id": audit.id,
        "title": finding.title,
        "verdict": finding.verdict,
        "must": audit.is_must,
        "value": judgement.value,
        "unit": judgement.unit,
        "limit": judgement.limit,
        "display": judgement.display,
        "blame": judgement.blame,
        "why": audit.why,
        "evidence": {
            "rounds": finding.rounds,
            "attacks": list(audit.attacks),
            "routes": list(judgement.routes),
            "losses": list(judgement.losses),
            "stack": list(judgement.stack),
            "series": plain(judgement.series),
        },
        "repro": finding.repro,
        "fix": plain(audit.fixes),
    }


def _strict(value: Any) -> Any:
    """Return the value without what strict parsers refuse: NaN, infinity, half a character."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {_strict(str(name)): _strict(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return value
