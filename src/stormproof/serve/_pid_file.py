"""The pid file: where other processes find the parent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stormproof.errors import InvalidSetting


@contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """Hold this process's id in `path` during the block; None: do nothing.

    The file appears whole or not at all, and is removed only if it is still ours.

    Raises:
        InvalidSetting: It cannot be written.
    """
    if path is None:
        yield
        return
    path = path.absolute()
    line = f"{os.getpid()}\n"
    try:
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(line)
        draft.replace(path)
    except OSError as exc:
        raise InvalidSetting(f"--pid-file {path} cannot be written: {exc.strerror}") from exc
    try:
        yield
    finally:
        with suppress(OSError):
            if path.read_text() == line:
                path.unlink()


def read_pid(path: Path) -> int:
    """Return the process id in `path`.

    Raises:
        InvalidSetting: There is no such file, or no process id in it.
    """
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidSetting(f"--pid-file {path} cannot be read: {exc}") from exc
    if not text.isdecimal() or int(text) < 1:
        raise InvalidSetting(f"--pid-file {path} holds no process id but {text[:20]!r}")
    return int(text)
