"""Every block of every page does what the page says: Python runs, commands and files exist."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest

from stormproof.cli import main

from .pages import ROOT, Block, blocks, pages

PYTHON_BLOCKS = blocks("python")
COMMAND_BLOCKS = blocks("sh", "console")

NOT_RUN = 0
"""How many Python blocks are marked `notest`. Each one is a promise nobody checks: keep it 0."""

LANGUAGES = {
    *("python", "sh", "console", "toml", "json"),  # checked here
    *("text", "http", "sql", "yaml", "diff", "dockerfile"),  # shown only
}
FOREIGN_COMMANDS = {
    "fastapi",
    "granian",
    "hypercorn",
    "apt-get",
    "cd",
    "curl",
    "git",
    "gunicorn",
    "kill",
    "source",
    "uvicorn",
}


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, str]]:
    """What became of each Python block, by name."""
    run = [block for block in PYTHON_BLOCKS if block.mark != "notest"]
    wanted = [
        {"path": str(ROOT / block.path), "line": block.line, "text": block.text} for block in run
    ]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.docs.run_blocks"],
        input=json.dumps(wanted), stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return dict(zip((block.name for block in run), json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=lambda block: block.name)
def test_python_block_runs_and_prints_what_the_page_says(
    block: Block, results: dict[str, dict[str, str]]
) -> None:
    if block.mark == "notest":
        return
    result = results[block.name]
    assert not result["problem"], f"{block.name}: {result['problem']}"
    if block.output is not None:
        assert result["output"] == block.output


def test_no_python_block_is_left_out(results: dict[str, dict[str, str]]) -> None:
    """The fences are counted a second time, by a plain search, so that no parser can lose one."""
    text = "\n".join((ROOT / page).read_text() for page in pages())
    present = len(re.findall(r"^ *```+ *(?:python|py|pycon)\b", text, re.MULTILINE))
    assert present == len(results) + NOT_RUN
    assert {block.mark for block in PYTHON_BLOCKS} <= {"", "notest"}


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.name)
def test_block_has_a_language_that_is_known_here(block: Block) -> None:
    assert block.language in LANGUAGES
    if block.language == "toml":
        tomllib.loads(block.text)
    elif block.language == "json":
        json.loads(block.text)


@pytest.mark.parametrize("block", COMMAND_BLOCKS, ids=lambda block: block.name)
def test_commands_of_a_block_exist(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    for words in _commands(block):
        _check_command(words, capsys)


def _commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command; in a `console` block those are the lines after "$ "."""
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        if block.language == "console":
            if not line.startswith("$ "):
                continue
            line = line[2:]
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in {"&&", "||", "|", ";", "&"}:
                if words := _without_assignments(words):
                    yield words
                words = []
            else:
                words.append(word)


def _without_assignments(words: list[str]) -> list[str]:
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    return words


def _check_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command, *rest = words
    if command in {"python", "python3"} and rest[:1] == ["-m"]:
        command, *rest = rest[1:]
    if command == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets)
    elif command == "stormproof":
        _check_ours(rest, capsys)
    elif command == "pip":
        _check_extras(" ".join(rest))
    elif command.startswith((".venv/bin/", "scripts/", ".ci/")):
        assert (ROOT / command).exists(), command
    else:
        assert command in FOREIGN_COMMANDS, f"{command!r} is no command that these pages may use"


def _check_ours(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    is_command = bool(words) and not words[0].startswith("-")
    with pytest.raises(SystemExit) as left:
        main([words[0], "--help"] if is_command else ["--help"])
    assert left.value.code == 0, f"there is no command {words[0]!r}"
    described = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= described


def _check_extras(arguments: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for names in re.findall(r"(?:stormproof|\.)\[([a-z,]+)\]", arguments):
        assert set(names.split(",")) <= set(project["optional-dependencies"])
