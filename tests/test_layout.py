"""The habits of the code base that a tool can hold: sizes, docstrings, names, paths."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "src").rglob("*.py"))

MOST_LINES = 400
MOST_FUNCTION_LINES = 60
EMPTY_WORDS = {"utils", "util", "helpers", "helper", "manager", "common", "misc", "base"}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_is_one_noun_of_readable_size(module: Path) -> None:
    source = module.read_text()
    tree = ast.parse(source)
    first = (ast.get_docstring(tree) or "").partition("\n")[0]
    assert re.fullmatch(r"[A-Z`].*[.:]", first), "the first line of a module is one sentence"
    assert source.count("\n") <= MOST_LINES
    assert module.stem.strip("_") not in EMPTY_WORDS
    functions = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = {node.name for node in functions if _code_lines(node) > MOST_FUNCTION_LINES}
    assert not long, f"functions of more than {MOST_FUNCTION_LINES} lines: {long}"


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    """Paths into a home or a working folder are somebody's own; temporary ones are a fixture's."""
    own = re.compile(r"(?<![\w.~/-])/(?:home|root|Users|work|tmp/wt)/[\w.]")
    found = [
        f"{name}:{number}"
        for name in _tracked_files()
        for number, line in enumerate((ROOT / name).read_text().splitlines(), start=1)
        if own.search(line)
    ]
    assert not found


def _code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function from its signature on, without its docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    return lines - (ast.get_docstring(function, clean=False) or "").count("\n")


def _tracked_files() -> list[str]:
    """Return the text files of the checkout, or of the folder where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    names = listed.stdout.split() if listed.returncode == 0 else []
    names = names or [str(path.relative_to(ROOT)) for path in (ROOT / "src").rglob("*.py")]
    texts = {".py", ".md", ".toml", ".sh", ".cfg", ".yml", ""}
    return [name for name in names if Path(name).suffix in texts and (ROOT / name).is_file()]
