"""Pages: the documents of this repository and the fenced blocks in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^(?P<fence>`{3,})(?P<info>[^`]*)$")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        path: The page, relative to the root.
        line: The line of its first fence, counted from 1.
        language: The first word after the fence, or "".
        mark: The further words after it.
        text: What is between the fences.
        output: What the page says the block prints, or None if it does not say.
    """

    path: Path
    line: int
    language: str
    mark: str
    text: str
    output: str | None = None

    @property
    def name(self) -> str:
        """Where the block is: "README.md:12"."""
        return f"{self.path}:{self.line}"


def pages() -> list[Path]:
    """Return every page, relative to the root."""
    return [
        path.relative_to(ROOT)
        for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
    ]


def blocks(*languages: str) -> list[Block]:
    """Return the blocks of all pages in these languages; of every language without arguments."""
    found = [block for page in pages() for block in blocks_of(page)]
    return [block for block in found if not languages or block.language in languages]


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of one page; one that "prints" the next one knows its output."""
    lines = (ROOT / page).read_text().splitlines()
    found: list[Block] = []
    for start, end, info in _fences(lines):
        language, _, mark = info.strip().partition(" ")
        text = "".join(f"{line}\n" for line in lines[start + 1 : end])
        between = " ".join(lines[_end_of(found[-1]) : start]).strip() if found else ""
        if language == "text" and found and between == "This prints:":
            found[-1] = _with_output(found[-1], text)
        found.append(Block(page, start + 1, language, mark, text))
    return found


def _fences(lines: list[str]) -> Iterator[tuple[int, int, str]]:
    """Yield first line, last line (from 0) and info string of each fenced block."""
    opened: tuple[int, str, str] | None = None
    for number, line in enumerate(lines):
        match = _FENCE.match(line)
        if match is None:
            continue
        if opened is None:
            opened = (number, match["fence"], match["info"])
        elif match["fence"] == opened[1] and not match["info"].strip():
            yield opened[0], number, opened[2]
            opened = None
    assert opened is None, f"the block that begins in line {opened[0] + 1} has no end"


def _end_of(block: Block) -> int:
    return block.line + block.text.count("\n") + 1


def _with_output(block: Block, output: str) -> Block:
    return Block(block.path, block.line, block.language, block.mark, block.text, output)
