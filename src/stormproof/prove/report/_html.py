"""HTML: one page that needs no network, no server and no JavaScript to be read."""

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stormproof.prove._audit import Finding, Fix, Report, Series, Verdict
from stormproof.prove._recording import AttackRecord, Recording

from . import _words as words
from ._plot import Across, Chart, Down, Line, Panel, in_words, path, thinned
from ._timeline import Timeline, scaled, timeline

_SECTIONS: dict[Verdict, str] = {
    "fail": "Failed",
    "should": "Should be better",
    "unstable": "Unstable: the rounds disagreed, so it does not count",
    "pass": "Passed",
    "not-measured": "Not measured",
    "n-a": "Not applicable",
}
_LONGEST_TEXT = 6000
_PLOT_HEIGHT = 120.0


@dataclass(frozen=True, slots=True)
class _CodeLine:
    text: str
    is_changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plot:
    title: str
    chart: Chart


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A finding with all that the page shows of it."""

    finding: Finding
    word: str
    measured: str
    bar: tuple[float, float] | None
    fixes: tuple[tuple[Fix, list[_CodeLine], list[_CodeLine]], ...]
    losses: list[str]
    own_places: list[str]
    plots: tuple[_Plot, ...]
    timelines: tuple[Timeline, ...]


def as_html(report: Report) -> str:
    """Return the report as one page: styles, script and plots are in it.

    What comes from the app (routes, messages, output) is hostile until it is escaped: the
    template escapes everything, and the page's own policy lets no script run but the page's.
    """
    recording = report.recording
    timelines = [timeline(attack, _anchor(attack, recording)) for attack in recording.attacks]
    script = _text("script.js")
    page = _environment().get_template("page.html.jinja")
    text = page.render(
        report=report,
        recording=recording,
        headline=words.headline(report),
        left_over=words.left_over(report),
        sections=_sections(report, timelines),
        counts=words.counts(report),
        score=words.score_line(report),
        facts=_facts(report),
        timelines=timelines,
        style=Markup(_text("style.css")),
        script=Markup(script),
        script_hash=_hash(script),
    )
    return f"{text}\n"


def _environment() -> Environment:
    """Return an environment that escapes all and cleans what cannot be escaped."""
    environment = Environment(
        loader=PackageLoader("stormproof.prove.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters.update(
        duration=words.duration,
        exit_line=words.exit_line,
        one_line=words.one_line,
        tally_word=words.tally_word,
    )
    environment.globals.update(verdict_word=lambda verdict: words.VERDICTS[verdict])
    return environment


def _shown(value: Any) -> Any:
    """Return foreign text without what would harm, and without what nobody would read."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    text = words.clean(value)
    if len(text) <= _LONGEST_TEXT:
        return text
    left_out = len(text) - _LONGEST_TEXT
    return f"{text[:_LONGEST_TEXT]} … ({left_out:,} more characters are left out)"


def _text(name: str) -> str:
    return files(__package__).joinpath("page", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """Return the script's hash as a content security policy names it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _anchor(attack: AttackRecord, recording: Recording) -> str:
    name = "".join(letter if letter.isalnum() else "-" for letter in words.one_line(attack.name))
    is_last = recording.attack(attack.name) is attack
    return f"attack-{name}" if is_last else f"attack-{name}-{attack.round}"


def _facts(report: Report) -> list[tuple[str, str]]:
    recording = report.recording
    asked = sum(len(attack.requests) for attack in recording.attacks)
    pairs = [
        ("Server", recording.server),
        ("Profile", words.profile_line(recording)),
        ("Machine", words.machine_line(recording)),
        ("Routes", str(len(recording.routes))),
        ("Requests", f"{asked:,}"),
        ("Dependencies", ", ".join(recording.dependencies) or "none found"),
        ("Began", recording.started.replace("T", " ")),
        ("Took", words.duration(words.took(recording))),
        ("stormproof", recording.stormproof),
    ]
    return [(name, words.one_line(value)) for name, value in pairs]


def _sections(
    report: Report, timelines: Sequence[Timeline]
) -> list[tuple[Verdict, str, list[_Entry]]]:
    sections = []
    for verdict, title in _SECTIONS.items():
        found = [finding for finding in report.findings if finding.verdict == verdict]
        if found:
            entries = [_entry(finding, report.recording, timelines) for finding in found]
            sections.append((verdict, title, entries))
    return sections


def _entry(finding: Finding, recording: Recording, timelines: Sequence[Timeline]) -> _Entry:
    judgement = finding.judgement
    value, limit = judgement.value, judgement.limit
    bar = None
    if value is not None and limit and math.isfinite(value) and math.isfinite(limit):
        bar = scaled(value, limit)
    return _Entry(
        finding=finding,
        word=words.VERDICTS[finding.verdict],
        measured=words.measured_line(finding),
        bar=bar,
        fixes=tuple((fix, *_compared(fix)) for fix in finding.audit.fixes),
        losses=words.losses(finding),
        own_places=words.own_places(finding),
        plots=tuple(_plot(series, recording) for series in judgement.series if series.points),
        timelines=tuple(
            each for each in timelines if each.attack.name in finding.audit.attacks and each.chart
        ),
    )


def _compared(fix: Fix) -> tuple[list[_CodeLine], list[_CodeLine]]:
    """Return the code before and after, each line with whether it is only there."""
    before = words.clean(fix.before).strip("\n").split("\n")
    after = words.clean(fix.after).strip("\n").split("\n")
    same_before: set[int] = set()
    same_after: set[int] = set()
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    for start, other, size in matcher.get_matching_blocks():
        same_before.update(range(start, start + size))
        same_after.update(range(other, other + size))
    return (
        [_CodeLine(text, index not in same_before) for index, text in enumerate(before)],
        [_CodeLine(text, index not in same_after) for index, text in enumerate(after)],
    )


def _plot(series: Series, recording: Recording) -> _Plot:
    """Return a series on the time of the attack it lies in."""
    first, last = series.points[0][0], series.points[-1][0]
    began_at = max(
        (attack.began_at for attack in recording.attacks if attack.began_at <= first),
        default=min(0.0, first),
    )
    across = Across(began_at, last)
    down = Down.linear([value for _, value in series.points], _PLOT_HEIGHT)
    marks, rows = across.marks(series.marks)
    panel = Panel(
        title=words.one_line(series.title),
        unit=words.one_line(series.unit),
        height=_PLOT_HEIGHT,
        words=f"{in_words(series.points, series.unit)}.",
        ticks=down.ticks(),
        lines=(Line("value", series.title, path(thinned(series.points), across, down)),),
    )
    chart = Chart(panels=(panel,), ticks=across.ticks(), marks=marks, rows=rows)
    return _Plot(title=panel.title, chart=chart)
