"""Terminal: the report as text; the worst first, in words, then a table, then what to do."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from stormproof.prove._audit import Finding, Report, Verdict

from ._words import (
    VERDICTS,
    clean,
    docs_page,
    duration,
    headline,
    left_over,
    losses,
    machine_line,
    measured_line,
    one_line,
    own_places,
    profile_line,
    score_line,
    tally,
    took,
)

_COLOURS: Mapping[Verdict, str] = {
    "fail": "1;31",
    "should": "1;33",
    "unstable": "1;35",
    "not-measured": "2",
    "pass": "32",
    "n-a": "2",
}
_MOST_LOSSES, _MOST_PLACES = 3, 4
_LABEL = 9


def as_text(report: Report, *, width: int = 80, is_coloured: bool = False) -> str:
    """Return the report for a terminal of `width` columns (at least 40 are used)."""
    width = max(40, width)
    page = _Page(width, is_coloured)
    blocks = [list(page.headline(report)), list(page.table(report))]
    blocks += [list(page.story(finding)) for finding in report.failed]
    blocks.append(list(page.end(report)))
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


class _Page:
    def __init__(self, width: int, is_coloured: bool) -> None:
        self._width = width
        self._is_coloured = is_coloured

    def headline(self, report: Report) -> Iterator[str]:
        for verdict, text in headline(report):
            word = VERDICTS[verdict].upper()
            yield from self._hanging(self._painted(word, _COLOURS[verdict]), len(word) + 2, text)
        if more := left_over(report):
            yield from self._wrapped(more, " " * 6, " " * 6)

    def table(self, report: Report) -> Iterator[str]:
        words = max((len(VERDICTS[found.verdict]) for found in report.findings), default=0)
        ids = max((len(found.audit.id) for found in report.findings), default=0)
        for found, others in _rows(report.findings):
            word = VERDICTS[found.verdict]
            painted = self._painted(word, _COLOURS[found.verdict]) + " " * (words - len(word))
            head = f"{painted}  {found.audit.id:<{ids}}"
            also = f" (also {', '.join(others)})" if others else ""
            text = f"{one_line(found.judgement.display)}{also}"
            yield from self._hanging(head, words + ids + 4, text)

    def story(self, finding: Finding) -> Iterator[str]:
        audit, judgement = finding.audit, finding.judgement
        word = VERDICTS[finding.verdict]
        painted = self._painted(word, _COLOURS[finding.verdict])
        yield from self._hanging(painted, len(word) + 2, f"{audit.id}: {one_line(finding.title)}")
        yield from self._labelled("seen", one_line(judgement.display))
        if judgement.value is not None:
            yield from self._labelled("measured", measured_line(finding))
        lost = losses(finding)
        for number, loss in enumerate(lost[:_MOST_LOSSES]):
            yield from self._labelled("" if number else "lost", loss)
        if len(lost) > _MOST_LOSSES:
            yield from self._labelled("", "and more: --html or --json has them")
        for number, place in enumerate(own_places(finding)[::-1][:_MOST_PLACES]):
            yield from self._labelled("" if number else "where", place)
        if judgement.blame != "app":
            yield from self._labelled("blame", f"the {judgement.blame}, not the app")
        yield from self._labelled("why", one_line(audit.why))
        yield from self._labelled("again", one_line(finding.repro), is_copied=True)
        for number, fix in enumerate(audit.fixes):
            yield from self._labelled("" if number else "fix", one_line(fix.title))
        yield from self._labelled("", f"the code: --html FILE, or {docs_page(finding)}")

    def end(self, report: Report) -> Iterator[str]:
        recording = report.recording
        for note in report.notes:
            yield from self._labelled("note", one_line(note), indent=0)
        lines = self._wrapped(f"{score_line(report)}: {tally(report)}", "", "")
        yield from (self._painted(line, "1") for line in lines)
        about = [
            one_line(recording.app),
            one_line(recording.server),
            f"profile {profile_line(recording)}",
            machine_line(recording),
            f"took {duration(took(recording))}",
        ]
        yield from self._wrapped(" · ".join(about), "", "")

    def _labelled(
        self, label: str, text: str, *, indent: int = 2, is_copied: bool = False
    ) -> Iterator[str]:
        head = " " * indent + f"{label:<{_LABEL}}"
        if is_copied:  # a command that is broken over lines cannot be copied
            yield head + text
        else:
            yield from self._wrapped(text, head, " " * len(head))

    def _hanging(self, head: str, indent: int, text: str) -> Iterator[str]:
        """Yield `head` (painted, `indent` columns with its gap) and the text beside it."""
        if indent > self._width // 2:
            yield head
            yield from self._wrapped(text, "    ", "    ")
            return
        lines = list(self._wrapped(text, " " * indent, " " * indent)) or [" " * indent]
        yield f"{head}  {lines[0][indent:]}".rstrip()
        yield from lines[1:]

    def _wrapped(self, text: str, first: str, rest: str) -> list[str]:
        return textwrap.wrap(
            text,
            self._width,
            initial_indent=first,
            subsequent_indent=rest,
            break_on_hyphens=False,
        )

    def _painted(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{clean(text)}\x1b[0m" if self._is_coloured else clean(text)


def _rows(findings: Sequence[Finding]) -> Iterator[tuple[Finding, list[str]]]:
    """Yield each row of the table: a finding, and the ids of others that say the same."""
    quiet: dict[tuple[Verdict, str], list[Finding]] = {}
    for found in findings:
        if found.verdict in ("n-a", "not-measured"):
            quiet.setdefault((found.verdict, found.judgement.display), []).append(found)
        else:
            yield found, []
    for same in quiet.values():
        yield same[0], [found.audit.id for found in same[1:]]
