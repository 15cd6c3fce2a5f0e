"""Each error has one code, one page and one line in the index, and they say the same."""

import builtins
import re

import pytest

from stormproof import errors
from stormproof.errors import StormproofError

from .pages import ROOT

FOLDER = ROOT / "docs" / "errors"
SECTIONS = ["What it means", "Why it happens", "What to do", "Example"]

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, StormproofError)
]


def test_each_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in CLASSES]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"SP\d{3}", code) for code in codes)


def test_codes_pages_and_index_are_the_same_set() -> None:
    codes = sorted(error.code for error in CLASSES)
    assert sorted(page.stem for page in FOLDER.glob("SP*.md")) == codes
    rows = re.findall(r"^\| \[(SP\d+)\]\((SP\d+)\.md\)", _read("index"), re.MULTILINE)
    assert rows == [(code, code) for code in codes]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.code)
def test_page_and_index_say_what_the_class_says(error: type[StormproofError]) -> None:
    page = _read(error.code)
    assert page.startswith(f"# {error.code}: {error.title}\n")
    assert f"\n- Class: `stormproof.errors.{error.__name__}`\n" in page
    assert f"\n- Status: {error.status}\n" in page
    assert f"\n- Also a: {_builtin_base(error)}\n" in page
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == SECTIONS
    row = f"| [{error.code}]({error.code}.md) | `{error.__name__}` | {error.status} | "
    assert row in _read("index")


def _read(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text()


def _builtin_base(error: type[StormproofError]) -> str:
    """Return the standard exception one may catch it by, in code quotes, or "nothing else"."""
    names = [base.__name__ for base in error.__bases__ if hasattr(builtins, base.__name__)]
    return ", ".join(f"`{name}`" for name in names if name != "Exception") or "nothing else"
