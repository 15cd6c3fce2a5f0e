"""The pages hold together: links lead somewhere, words are the project's, nothing is oversold."""

import re
from pathlib import Path

import pytest

from .pages import ROOT, pages

HYPE = re.compile(r"\b(simply|just|blazing(ly)?|seamless(ly)?|effortless(ly)?)\b", re.IGNORECASE)


@pytest.mark.parametrize("page", pages(), ids=str)
def test_each_relative_link_leads_to_a_file(page: Path) -> None:
    prose = _without_blocks((ROOT / page).read_text())
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose)
    targets = [link for link in links if not link.startswith(("http:", "https:"))]
    missing = [link for link in targets if not (ROOT / page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", pages(), ids=str)
def test_page_does_not_sell(page: Path) -> None:
    assert not HYPE.findall(_without_blocks((ROOT / page).read_text()))


def test_every_page_can_be_reached_from_the_readme_or_the_docs_index() -> None:
    starts = [ROOT / "README.md", ROOT / "docs" / "index.md"]
    reached: set[Path] = set()
    waiting = [start.resolve() for start in starts]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s:]+)\)", page.read_text())
        waiting += [(page.parent / link).resolve() for link in links]
    assert {(ROOT / page).resolve() for page in pages()} <= reached


def test_glossary_is_sorted_and_names_each_word_once() -> None:
    words = re.findall(r"^- \*\*(.+?)\*\*: .+\.$", (ROOT / "docs/glossary.md").read_text(), re.M)
    assert words == sorted(set(words), key=str.casefold)
    assert len(words) > 20


def _without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
