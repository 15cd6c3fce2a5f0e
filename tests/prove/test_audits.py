"""Code, pages and tests of the audits are one set, and say the same."""

import re

import pytest

from stormproof.prove import ATTACKS, AUDITS, Audit
from tests.docs.pages import ROOT

PAGES = ROOT / "docs" / "audits"
UNIT_TESTS = ROOT / "tests" / "prove" / "audits"
SECTIONS = ["What it finds", "Why it hurts", "Example", "Instead", "What it does not see"]

each = pytest.mark.parametrize("audit", AUDITS, ids=lambda audit: audit.id)


def test_every_audit_has_one_id_one_page_one_unit_test_and_two_apps() -> None:
    ids = [audit.id for audit in AUDITS]
    assert len(set(ids)) == len(ids)
    assert sorted(page.stem for page in PAGES.glob("*.md") if page.stem != "index") == sorted(ids)
    tests = {path.stem.removeprefix("test_").replace("_", "-") for path in UNIT_TESTS.glob("t*.py")}
    assert set(ids) <= tests
    apps = {folder.parent.name for folder in (ROOT / "tests/prove_apps").glob("*/defect.py")}
    assert apps == {id.replace("-", "_") for id in ids}


def test_attacks_that_audits_read_are_the_attacks_that_are_played() -> None:
    read = {name for audit in AUDITS for name in audit.attacks}
    assert read <= {attack.name for attack in ATTACKS}


@each
def test_words_are_whole_sentences_and_fixes_are_given(audit: Audit) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", audit.id)
    assert audit.passing != audit.failing
    assert len(audit.why) > 60
    assert len(audit.fixes) >= 1
    assert all(fix.after for fix in audit.fixes)


@each
def test_page_says_whether_it_is_a_must_and_stands_in_the_index(audit: Audit) -> None:
    page = (PAGES / f"{audit.id}.md").read_text()
    assert page.startswith(f"# {audit.id}: ")
    assert ("A MUST" if audit.is_must else "A SHOULD") in page
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == SECTIONS
    kind = "MUST" if audit.is_must else "SHOULD"
    assert f"| [{audit.id}]({audit.id}.md) | {kind} | " in (PAGES / "index.md").read_text()
