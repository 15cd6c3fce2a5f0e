"""What every format of the report promises: the worst first, whole, and harmless."""

import json
import re
import xml.etree.ElementTree as xml
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from math import inf, nan

import pytest

from stormproof.prove._audit import Report
from stormproof.prove.report import as_html, as_json, as_junit, as_markdown, as_text, exit_code

from .samples import (
    big_report,
    failing_report,
    finding,
    hostile_report,
    passing_report,
    recording,
    silent_report,
)

FORMATS: tuple[Callable[[Report], str], ...] = (as_html, as_json, as_junit, as_markdown, as_text)
REPORTS = (failing_report, passing_report, hostile_report, silent_report)
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\ud800-\udfff]")
EMPTY = Report(recording=recording(attacks=()), findings=(), score=None)


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("report", REPORTS)
def test_nothing_a_terminal_or_a_parser_acts_on_gets_through(
    write: Callable[[Report], str], report: Callable[[], Report]
) -> None:
    text = write(report())
    text.encode("utf-8")
    assert not CONTROL.search(text)
    assert text.endswith("\n")


@pytest.mark.parametrize("write", FORMATS)
def test_a_report_of_nothing_is_a_report(write: Callable[[Report], str]) -> None:
    assert write(EMPTY)


@pytest.mark.parametrize("write", FORMATS)
def test_figures_without_end_are_told_and_break_nothing(write: Callable[[Report], str]) -> None:
    endless = finding("pool-hold", "fail", "never given back", value=inf, unit="s", limit=0.25)
    odd = finding("loop-blocking", "fail", "not a number", value=nan, unit="s", limit=0.0)
    report = replace(failing_report(), findings=(endless, odd))
    text = write(report)
    assert "never given back" in text
    assert "nan%" not in text


@pytest.mark.parametrize(
    ("report", "code"),
    [(failing_report, 1), (passing_report, 0), (hostile_report, 1), (silent_report, 3)],
)
def test_exit_code_says_whether_a_must_failed(report: Callable[[], Report], code: int) -> None:
    assert exit_code(report()) == code


def test_should_and_unstable_do_not_count_in_the_exit_code() -> None:
    kept = tuple(each for each in failing_report().findings if each.verdict != "fail")
    assert {"should", "unstable"} <= {each.verdict for each in kept}
    assert exit_code(replace(failing_report(), findings=kept)) == 0


# --- terminal


def test_first_line_says_the_worst_in_words() -> None:
    first = as_text(failing_report()).splitlines()[0]
    assert first == "FAIL  12 of 60 requests were lost when the server was told to stop"


def test_passing_report_says_so_in_its_first_line() -> None:
    assert as_text(passing_report()).startswith("PASS  nothing that must hold failed: 12 checks")


def test_without_real_traffic_there_is_no_score_and_the_report_says_why() -> None:
    for write in (as_text, as_markdown, as_html):
        assert "no request was answered 2xx" in write(silent_report())
        assert not re.search(r"score.{0,20}\d+ of 100", write(silent_report()))
    assert json.loads(as_json(silent_report()))["score"] is None


@pytest.mark.parametrize("width", [20, 40, 80, 120, 300])
@pytest.mark.parametrize("report", REPORTS)
def test_text_keeps_to_the_width_but_for_commands(report: Callable[[], Report], width: int) -> None:
    for line in as_text(report(), width=width).splitlines():
        is_command = line.strip().startswith("again ")
        assert is_command or len(line) <= max(40, width), line


def test_failed_audits_say_where_why_and_how_to_see_it_again() -> None:
    text = as_text(failing_report(), width=100)
    for failed in failing_report().failed:
        assert f"{failed.audit.id}: {failed.audit.failing}" in text
        assert failed.repro in text
        assert f"docs/audits/{failed.audit.id}.md" in text
    assert "where    app/mail.py:44 in EmailService.send" in text, "the innermost line comes first"
    assert "blame    the server, not the app" in text


def test_a_stack_leads_to_the_lines_of_the_app() -> None:
    library = "/venv/lib/python3.11/site-packages/sqlalchemy/pool/base.py:460 in connect"
    own = "/srv/shop/main.py:12 in items"
    found = finding("pool-hold", "fail", "held", stack=(own, library))
    report = replace(failing_report(), findings=(found,))
    assert f"where    {own}" in as_text(report, width=200)
    assert library not in as_text(report, width=200)
    assert f"{own} ← here" in as_html(report)
    assert library in as_html(report)
    only_library = finding("pool-hold", "fail", "held", stack=(library,))
    assert library in as_text(replace(report, findings=(only_library,)), width=200)


def test_losses_that_say_the_same_are_said_once_with_their_count() -> None:
    found = finding("drain-streams", "fail", "cut", losses=("GET /a: cut",) * 4 + ("GET /b: cut",))
    for write in (as_text, as_html, as_junit):
        text = write(replace(failing_report(), findings=(found,)))
        assert text.count("GET /a: cut") == 1
        assert "GET /a: cut (4 times)" in text
        assert "GET /b: cut" in text


def test_checks_that_do_not_apply_for_one_reason_take_one_row() -> None:
    found = tuple(finding(id, "n-a", "no dependency") for id in ("dep-blackhole", "health-truth"))
    text = as_text(replace(passing_report(), findings=found))
    assert text.count("no dependency") == 1
    assert "no dependency (also health-truth)" in text


def test_colour_changes_nothing_but_colour() -> None:
    painted = as_text(failing_report(), is_coloured=True)
    assert "\x1b[1;31mFAIL\x1b[0m" in painted
    assert re.sub(r"\x1b\[[\d;]*m", "", painted) == as_text(failing_report())


# --- JSON


def test_json_has_the_promised_shape() -> None:
    value = json.loads(as_json(failing_report()), parse_constant=pytest.fail)
    promised = {"schema", "app", "stormproof", "machine", "profile", "baseline", "audits", "score"}
    assert promised <= set(value)
    assert value["schema"] == 1
    assert value["score"] == 41
    first = value["audits"][0]
    assert set(first) >= {
        *("id", "title", "verdict", "must", "value", "unit", "display", "blame"),
        *("evidence", "repro", "fix"),
    }
    assert first["id"] == "drain-in-flight"
    assert len(first["evidence"]["losses"]) == 5
    assert set(first["fix"][0]) == {"title", "before", "after"}


def test_json_has_no_figures_that_strict_parsers_refuse() -> None:
    endless = finding("pool-hold", "fail", "never given back", value=inf, limit=nan)
    text = as_json(replace(failing_report(), findings=(endless,)))
    assert json.loads(text, parse_constant=pytest.fail)["audits"][0]["value"] is None


# --- JUnit


@pytest.mark.parametrize("report", [*REPORTS, lambda: EMPTY])
def test_junit_counts_are_those_of_its_cases(report: Callable[[], Report]) -> None:
    root = xml.fromstring(as_junit(report()))
    suite = root.find("testsuite")
    assert root.tag == "testsuites"
    assert suite is not None
    cases = suite.findall("testcase")
    for element in (root, suite):
        assert int(element.attrib["tests"]) == len(cases) == len(report().findings)
        assert int(element.attrib["failures"]) == len(suite.findall("testcase/failure"))
        assert int(element.attrib["skipped"]) == len(suite.findall("testcase/skipped"))
        assert int(element.attrib["errors"]) == 0
        assert float(element.attrib["time"]) >= 0
    for case in cases:
        assert set(case.attrib) == {"classname", "name", "time"}
        assert len(case) <= 1


def test_junit_tells_verdicts_apart() -> None:
    root = xml.fromstring(as_junit(failing_report()))
    children = {
        case.attrib["name"]: [child.tag for child in case] for case in root.iter("testcase")
    }
    assert children["drain-in-flight"] == ["failure"]
    assert children["overload-fast-reject"] == ["system-out"], "a SHOULD passes with a word"
    assert children["concurrency-cliff"] == ["skipped"]
    assert children["stream-heartbeat"] == ["skipped"]
    assert children["loop-blocking"] == []
    skipped = root.find("testsuite/testcase[@name='dep-blackhole']/skipped")
    assert skipped is not None
    assert skipped.attrib["message"] == "not measured: no dependency was found"


def test_junit_time_is_without_a_zone_and_left_out_when_unknown() -> None:
    assert 'timestamp="2026-03-01T09:30:00"' in as_junit(failing_report())
    unknown = replace(failing_report(), recording=recording(started="yesterday"))
    assert "timestamp" not in as_junit(unknown)


# --- Markdown


def test_markdown_is_a_short_comment() -> None:
    text = as_markdown(failing_report())
    assert text.startswith("### ❌ stormproof prove: 12 of 60 requests were lost")
    assert len(text) < 4000
    assert "| ❌ FAIL | `drain-background` |" in text
    assert "loop-blocking" not in text, "what passed is only counted"


def test_markdown_table_keeps_its_columns_and_notifies_nobody() -> None:
    odd = finding("pool-hold", "fail", "a | b\n\nc `d` <b>e</b> *f* @everyone [g](http://h) #1")
    text = as_markdown(replace(failing_report(), findings=(odd,)))
    row = next(line for line in text.splitlines() if "pool-hold" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 4
    assert "<b>" not in text
    assert "@everyone" not in text.partition("<details>")[0]
    assert "[g](" not in row


# --- HTML


class Elements(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("report", [*REPORTS, big_report])
def test_html_refers_to_nothing_outside_itself(report: Callable[[], Report]) -> None:
    text = as_html(report())
    elements = Elements(text).found
    ids = {attributes["id"] for _, attributes in elements if "id" in attributes}
    for tag, attributes in elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form"), tag
        assert "src" not in attributes
        if "href" in attributes:
            target = str(attributes["href"])
            assert target.startswith("#")
            assert target[1:] in ids, f"{target} leads nowhere"
    assert "@import" not in text
    assert "url(" not in text


@pytest.mark.parametrize("report", REPORTS)
def test_html_ids_are_unique(report: Callable[[], Report]) -> None:
    ids = [
        attributes["id"]
        for _, attributes in Elements(as_html(report())).found
        if "id" in attributes
    ]
    assert len(ids) == len(set(ids))


def test_html_of_hostile_words_has_one_script_and_no_handler() -> None:
    elements = Elements(as_html(hostile_report())).found
    assert [tag for tag, _ in elements].count("script") == 1
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]


def test_html_of_a_hundred_thousand_requests_is_small_and_says_what_it_left_out() -> None:
    text = as_html(big_report())
    assert len(text.encode()) < 2_000_000
    assert re.search(r"[\d,]+ of 100,000 requests are drawn", text)


def test_html_shortens_a_text_that_nobody_would_read() -> None:
    long = finding("pool-hold", "fail", "x" * 5_000_000)
    text = as_html(replace(failing_report(), findings=(long,)))
    assert len(text) < 1_000_000
    assert "more characters are left out" in text


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_of_text_have_the_contrast_of_wcag_aa(scheme: int) -> None:
    palettes = re.findall(r":root \{(.*?)\}", as_html(failing_report()), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", palettes[scheme]))
    pairs = [(ink, back) for ink in ("ink", "soft") for back in ("back", "card", "code")]
    pairs += [("ink", "new"), ("ink", "out"), ("soft", "new"), ("soft", "out")]
    tones = ("fail", "should", "unstable", "pass", "plain", "link")
    pairs += [(tone, back) for tone in tones for back in ("card", "code")]
    for ink, back in pairs:
        assert contrast(colours[ink], colours[back]) >= 4.5, (ink, back)
    for shape in ("good", "client", "server", "broken", "timeout", "away"):
        assert contrast(colours[shape], colours["card"]) >= 3.0, shape


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2, 1.4.3)."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[index : index + 2], 16) / 255 for index in (0, 2, 4)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
