"""Ask a running supervisor for a hand-over to new workers."""

import os
import signal
from pathlib import Path

from stormproof.errors import InvalidSetting, NotStarted

from ._pid_file import read_pid


def reload(*, pid: int | None = None, pid_file: Path | None = None) -> int:
    """Send SIGHUP to the supervisor and return its process id; waits for nothing.

    The new workers' start, or why it was given up, is in the supervisor's log.

    Args:
        pid: Its process id.
        pid_file: Where it has written its process id, instead.

    Raises:
        InvalidSetting: Neither or both are given, or the file holds no process id.
        NotStarted: There is no such process, it belongs to somebody else, or SIGHUP would kill
            it (told on Linux alone).
    """
    if (pid is None) == (pid_file is None):
        raise InvalidSetting("reload wants one of --pid and --pid-file")
    number = read_pid(pid_file) if pid_file is not None else pid
    assert number is not None  # one of them was given
    if number < 1:
        raise InvalidSetting(f"--pid must be a process id, 1 or more; got {number}")
    if not _takes_hangups(number):
        raise NotStarted(f"process {number} does not take SIGHUP: it is no parent of `serve`")
    try:
        os.kill(number, signal.SIGHUP)
    except ProcessLookupError as exc:
        raise NotStarted(f"there is no process {number} to reload; start the service") from exc
    except PermissionError as exc:
        raise NotStarted(f"process {number} belongs to another user; reload it as them") from exc
    return number


def _takes_hangups(pid: int) -> bool:
    """Return whether the process has a handler for SIGHUP; True where that cannot be told.

    A stale pid file may name anybody, and without a handler SIGHUP kills.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    caught = next((line for line in status.splitlines() if line.startswith("SigCgt:")), None)
    return caught is None or bool(int(caught.split()[1], 16) & 1 << (signal.SIGHUP - 1))
