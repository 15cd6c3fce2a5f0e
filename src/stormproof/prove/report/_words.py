"""Words: what the formats of the report have in common, so that they say the same."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from signal import Signals

from stormproof.prove._audit import Finding, Report, Verdict
from stormproof.prove._recording import Exit, Recording

VERDICTS: Mapping[Verdict, str] = {
    "fail": "FAIL",
    "should": "SHOULD",
    "unstable": "UNSTABLE",
    "pass": "pass",
    "n-a": "n/a",
    "not-measured": "not measured",
}
"""Each verdict as it is shown, the worst first."""

_TALLY: Mapping[Verdict, str] = {
    "fail": "failed",
    "should": "should be better",
    "unstable": "unstable",
    "pass": "passed",
    "n-a": "not applicable",
    "not-measured": "not measured",
}

_LIBRARY = re.compile(r"[/\\](?:site-packages|dist-packages|lib[/\\]python3[.\d]*)[/\\]")

_GOOD, _FAILED, _NO_TRAFFIC = 0, 1, 3

# What a terminal acts on: CSI and OSC sequences, and two-character escapes.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
# What XML cannot hold, what UTF-8 cannot encode, and what turns the direction of text around.
_UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def clean(text: str) -> str:
    """Return foreign text without what would act on a terminal, a parser or a reader's eye."""
    text = _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _UNSHOWABLE.sub("\ufffd", text)


def one_line(text: str) -> str:
    """Return clean text on one line."""
    return " ".join(clean(text).split())


def number(value: float) -> str:
    """Return a figure as a person writes it: three digits that matter, thousands with commas."""
    if not math.isfinite(value):
        return "no end" if value > 0 else str(value)
    if value == int(value):
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return seconds as a person says them: `41 ms`, `6.2 s`, `2 min 5 s`."""
    if seconds < 1:
        return f"{number(seconds * 1000)} ms"
    if seconds < 60:
        return f"{number(round(seconds, 1))} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def plural(count: int, one: str, many: str) -> str:
    """Return the count with its noun."""
    return f"{count:,} {one if count == 1 else many}"


def counts(report: Report) -> dict[Verdict, int]:
    """Return how many findings have each verdict, the worst first, without the zeros."""
    found = Counter(finding.verdict for finding in report.findings)
    return {verdict: found[verdict] for verdict in VERDICTS if found[verdict]}


def tally(report: Report) -> str:
    """Return the same in words: `5 failed, 1 should be better, 3 passed`."""
    return ", ".join(f"{count} {_TALLY[verdict]}" for verdict, count in counts(report).items())


def tally_word(verdict: Verdict) -> str:
    """Return what a count of this verdict is followed by."""
    return _TALLY[verdict]


HEADLINES = 3


def headline(report: Report, *, most: int = HEADLINES) -> list[tuple[Verdict, str]]:
    """Return the first lines: the worst in words a tired person understands."""
    failed = report.failed
    lines: list[tuple[Verdict, str]] = [
        ("fail", one_line(finding.judgement.display)) for finding in failed[:most]
    ]
    if not has_good_traffic(report.recording):
        lines.insert(0, ("not-measured", "no request was answered 2xx, so little can be said"))
    return lines or [_good_line(report)]


def left_over(report: Report) -> str:
    """Return the line below the headline's: how many failed that it does not name, or ""."""
    count = len(report.failed) - HEADLINES
    return f"and {count} more that must hold and did not" if count > 0 else ""


def _good_line(report: Report) -> tuple[Verdict, str]:
    found = counts(report)
    passed = found.get("pass", 0)
    if not passed:
        return "not-measured", "nothing failed, and nothing was measured that could pass"
    open_words = [
        f"{found[verdict]} {_TALLY[verdict]}"
        for verdict in ("should", "unstable", "not-measured")
        if verdict in found
    ]
    rest = f"; {', '.join(open_words)}" if open_words else ""
    held = plural(passed, "check", "checks")
    return "pass", f"nothing that must hold failed: {held} passed{rest}"


def score_line(report: Report) -> str:
    """Return the score, or why there is none."""
    if report.score is not None:
        return f"score {report.score} of 100"
    if has_good_traffic(report.recording):
        return "no score (nothing was measured that counts)"
    return "no score (no request was answered 2xx: is there a route to learn, or a login?)"


def has_good_traffic(recording: Recording) -> bool:
    """Return whether any request, to more than a probe, was answered whole with a 2xx status."""
    probes = {route.id for route in recording.routes if route.kind == "health"}
    return any(
        request.ended == "complete" and 200 <= request.status < 300 and request.route not in probes
        for attack in recording.attacks
        for request in attack.requests
    )


def exit_code(report: Report) -> int:
    """Return 3 without real 2xx traffic, 1 when something that must hold did not, else 0."""
    if not has_good_traffic(report.recording):
        return _NO_TRAFFIC
    return _FAILED if report.failed else _GOOD


def took(recording: Recording) -> float:
    """Return the seconds from the recording's beginning to the end of its last attack."""
    return max((attack.ended_at for attack in recording.attacks), default=0.0)


def machine_line(recording: Recording) -> str:
    """Return the machine in one line: cpu, cores, system, python, and what else is known."""
    known = dict(recording.machine)
    parts = [known.pop("cpu", ""), _cores(known.pop("cores", ""))]
    python = known.pop("python", "")
    parts += [known.pop("system", ""), f"Python {python}" if python[:1].isdigit() else python]
    parts += [f"{name} {value}" for name, value in known.items()]
    return ", ".join(one_line(str(part)) for part in parts if part)


def profile_line(recording: Recording) -> str:
    """Return the platform's limits in one line."""
    profile = recording.profile
    named = one_line(str(profile.get("name", "unnamed")))
    parts = [
        f"{word} {duration(float(profile[name]))}"
        for name, word in (("grace", "grace"), ("lag", "lag"), ("deadline", "deadline"))
        if isinstance(profile.get(name), (int, float))
    ]
    parts += ["quick"] if profile.get("quick") else []
    return f"{named} ({', '.join(parts)})" if parts else named


def measured_line(finding: Finding) -> str:
    """Return the figure against its limit, or "" where there is no figure."""
    judgement = finding.judgement
    if judgement.value is None:
        return ""
    unit = f" {one_line(judgement.unit)}" if judgement.unit else ""
    limit = "" if judgement.limit is None else f", limit {number(judgement.limit)}"
    return f"{number(judgement.value)}{unit}{limit}"


def losses(finding: Finding) -> list[str]:
    """Return what went wrong, one line each; what is said more than once is said with a count."""
    said = Counter(one_line(loss) for loss in finding.judgement.losses)
    return [f"{loss} ({count} times)" if count > 1 else loss for loss, count in said.items()]


def own_places(finding: Finding) -> list[str]:
    """Return the stack without the frames of libraries, innermost last; all where none is left."""
    places = [one_line(place) for place in finding.judgement.stack]
    return [place for place in places if not _LIBRARY.search(place)] or places


def docs_page(finding: Finding) -> str:
    """Return where the audit is explained."""
    return f"docs/audits/{finding.audit.id}.md"


def exit_line(exit: Exit) -> str:
    """Return how the server ended, as a sentence."""
    if exit.is_killed:
        return "It had to be killed."
    if exit.code is None:
        return "It left no exit code."
    if exit.code >= 0:
        return f"It left with exit code {exit.code}."
    try:
        return f"It was ended by {Signals(-exit.code).name}."
    except ValueError:
        return f"It was ended by signal {-exit.code}."


def _cores(cores: object) -> str:
    return f"{cores} core" + ("" if str(cores) == "1" else "s") if cores else ""
