"""Processes: a name for this one that another process of the same machine can check."""

import os
import socket
from functools import cache
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")


@cache
def _machine() -> str:
    """Return what two processes have in common exactly when they see each other's ids.

    On Linux the boot and the namespace of process ids: two containers are two machines.
    """
    try:
        return f"{_BOOT.read_text().strip()}/{_NAMESPACE.readlink()}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """Return when the process started (in ticks since the boot), or None where nobody says so."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]  # the name may hold spaces; Z: a zombie


def this_process() -> str:
    """Return "machine|pid|start" of this process; ids are given again, so the start is in it."""
    pid = os.getpid()
    return f"{_machine()}|{pid}|{_started(pid) or ''}"


def is_dead(process: str) -> bool:
    """Whether `process` has certainly ended; False for one of another machine."""
    machine, pid, started = process.split("|")
    if machine != _machine():
        return False
    if started:
        return _started(int(pid)) != started
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def described(process: str) -> str:
    """Return "process 4711" for messages."""
    return f"process {process.split('|')[1]}"
