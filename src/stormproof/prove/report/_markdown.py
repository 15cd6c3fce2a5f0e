"""Markdown: a short comment for a pull request."""

import re

from stormproof.prove._audit import Finding, Report, Verdict

from ._words import (
    VERDICTS,
    duration,
    headline,
    machine_line,
    one_line,
    profile_line,
    score_line,
    tally,
    took,
)

_SIGNS = {"fail": "❌", "should": "⚠️", "unstable": "🎲", "not-measured": "❔", "pass": "✅"}
_TOLD: tuple[Verdict, ...] = ("fail", "should", "unstable", "not-measured")
_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~!$])")


def as_markdown(report: Report) -> str:
    """Return the report as a short comment: what failed, what should be better, how to run it."""
    recording = report.recording
    verdict, first = headline(report, most=1)[0]
    told = [finding for finding in report.findings if finding.verdict in _TOLD]
    lines = [f"### {_SIGNS.get(verdict, '')} stormproof prove: {_text(first)}", ""]
    lines += [f"{_code(recording.app)}: {_text(tally(report))}; {_text(score_line(report))}.", ""]
    if told:
        lines += ["| | Check | Seen |", "| --- | --- | --- |"]
        lines += [_row(finding) for finding in told]
        lines += ["", *_again(report.failed)]
    lines += [f"- {_text(note)}" for note in report.notes] + ([""] if report.notes else [])
    about = [
        recording.server,
        f"profile {profile_line(recording)}",
        machine_line(recording),
        f"took {duration(took(recording))}",
        f"stormproof {recording.stormproof}",
    ]
    lines.append(f"<sub>{_text(' · '.join(about))}</sub>")
    return "\n".join(lines) + "\n"


def _row(finding: Finding) -> str:
    sign = f"{_SIGNS[finding.verdict]} {VERDICTS[finding.verdict]}"
    return f"| {sign} | {_code(finding.audit.id)} | {_text(finding.judgement.display)} |"


def _again(failed: tuple[Finding, ...]) -> list[str]:
    if not failed:
        return []
    commands = [one_line(finding.repro) for finding in failed]
    fence = _fence("\n".join(commands), least=3)
    opening = "<details><summary>Run what failed again</summary>"
    return [opening, "", f"{fence}sh", *commands, fence, "", "</details>", ""]


def _text(text: str) -> str:
    """Return foreign text with nothing in it that Markdown or GitHub would act on."""
    escaped = _MARKS.sub(r"\\\1", one_line(text).replace("&", "&amp;"))
    # A zero-width space: nobody is to be notified because a route has a name.
    return escaped.replace("\\<", "&lt;").replace("\\>", "&gt;").replace("@", "@\u200b")


def _code(text: str) -> str:
    text = one_line(text)
    fence = _fence(text, least=1)
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _fence(text: str, *, least: int) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1 if longest >= least else least)
