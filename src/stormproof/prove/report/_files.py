"""Files: a report is written whole or not at all, and a bad path is known before the run."""

import os
from pathlib import Path

from stormproof.errors import InvalidSetting


def check_writable(path: Path) -> None:
    """Raise InvalidSetting unless a file can be written at `path`; nothing is left behind."""
    if path.is_dir():
        raise InvalidSetting(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise InvalidSetting(f"{path} cannot be written: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise InvalidSetting(f"{path} cannot be written: the folder {path.parent} is not ours")


def write_whole(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`; who reads meanwhile sees the old file or the new one.

    Raises:
        InvalidSetting: It cannot be written there.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(path)
    except OSError as exc:
        partial.unlink(missing_ok=True)
        raise InvalidSetting(f"{path} cannot be written: {exc.strerror}") from exc
