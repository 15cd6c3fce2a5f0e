"""Why a server did not start, in one sentence, read from its last output."""

import re
import sys
import sysconfig
from collections.abc import Collection
from pathlib import Path

from stormproof.prove._options import ProveOptions
from stormproof.prove._secrets import without_secrets

from ._port import is_free
from ._target import Target

_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)')
_PREFIX = re.compile(r"^(?:(?:\[[^\]]*\] )+|ERROR:\s+|[\s|+]*\| )")
_BEGIN = "Traceback (most recent call last):"
_OURS = "stormproof: "
_RAISED = re.compile(r"^[A-Za-z_][\w.]*(?:: .*)?$")
_COMPLAINT = re.compile(r"(?i)\b(?:error|critical|fatal)\b")
_MOST_WORDS = 300


def why_it_ended(target: Target, options: ProveOptions, *, has_all_ended: bool) -> str:
    """Return the sentence for a server whose first process ended before it answered."""
    who = _name(options)
    if not has_all_ended:
        return f"{who} went to the background: start it in the foreground"
    code = target.first_code
    how = f"exit code {code}" if code is None or code >= 0 else f"signal {-code}"
    reason = last_word(target.output, options.directory)
    if not reason:
        return f"{who} ended with {how} before it answered, and printed nothing"
    return f"{who} did not start: {reason} ({how})"


def why_it_is_silent(target: Target, options: ProveOptions, ports: Collection[int]) -> str:
    """Return the sentence for a server that runs, listens on `ports`, and does not answer."""
    where = f"on port {target.port} within {options.start_limit:g} s"
    sentence = f"{_name(options)} did not answer {where}"
    if target.port not in ports and not is_free(target.port):
        sentence += "; a process that is not its own has that port"
    elif others := sorted(set(ports) - {target.port}):
        sentence += f"; it listens on {', '.join(map(str, others))} instead"
    reason = last_word(target.output, options.directory)
    return f"{sentence}; its last output: {reason}" if reason else f"{sentence} and printed nothing"


def last_word(output: str, directory: Path) -> str:
    """Return what output says last: an exception and where, or a line; without passwords."""
    lines = [_PREFIX.sub("", line.rstrip()) for line in output.splitlines() if line.strip()]
    word = _own_error(lines) or _last_exception(lines, directory) or _last_complaint(lines)
    return without_secrets(word)[:_MOST_WORDS]


def _own_error(lines: list[str]) -> str:
    """Return what `stormproof serve` itself gives as its reason: it is the last it prints."""
    begins = [number for number, line in enumerate(lines) if line.startswith(_OURS)]
    return " ".join(lines[begins[-1] :]).removeprefix(_OURS) if begins else ""


def _last_exception(lines: list[str], directory: Path) -> str:
    begins = [number for number, line in enumerate(lines) if line.endswith(_BEGIN)]
    if not begins:
        return ""
    block = lines[begins[-1] + 1 :]
    frames, raised = [], ""
    for line in block:
        if match := _FRAME.match(line):
            frames.append((match["file"], match["line"]))
        elif _RAISED.match(line):
            raised = line
            break
    where = _own_frame(frames, directory)
    return f"{raised} ({where})" if raised and where else raised


def _own_frame(frames: list[tuple[str, str]], directory: Path) -> str:
    """Return `file:line` of the innermost frame that is the user's, or ""."""
    root = directory.resolve()
    for file, line in reversed(frames):
        path = Path(file)
        if _is_foreign(path):
            continue
        shown = path.relative_to(root) if path.is_relative_to(root) else path
        return f"{shown}:{line}"
    return ""


def _is_foreign(path: Path) -> bool:
    if str(path).startswith("<") or {"site-packages", "dist-packages"} & set(path.parts):
        return True
    libraries = (sysconfig.get_path("stdlib"), sys.base_prefix + "/lib")
    return any(path.is_relative_to(library) for library in libraries)


def _last_complaint(lines: list[str]) -> str:
    complaints = [line for line in lines if _COMPLAINT.search(line)]
    return (complaints or lines or [""])[-1]


def _name(options: ProveOptions) -> str:
    return "the command" if options.command else f"{options.app} under {options.server}"
