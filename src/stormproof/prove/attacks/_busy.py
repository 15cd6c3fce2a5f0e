"""How busy processes are: the share of the time in which they ran, or waited for a core to run."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")


class Busy:
    """Counts from when it is made; Linux only, elsewhere `share` is None.

    Waiting for a core counts: on a machine with other work a process that never waits for
    anything else gets only a part of a core, and its CPU seconds alone would not show that it
    is the bottleneck. Threads of one process are added up, which the GIL keeps at about 1.

    Args:
        pids: The processes, for instance the workers of a server.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._began_at = time.monotonic()
        self._before = {pid: _seconds(pid) for pid in pids}

    def share(self) -> float | None:
        """Return the share of the busiest process, 0 to 1."""
        took = max(time.monotonic() - self._began_at, 1e-9)
        shares = [
            (after - before) / took
            for pid, before in self._before.items()
            if before is not None and (after := _seconds(pid)) is not None
        ]
        return min(1.0, max(shares)) if shares else None


def this_process() -> Busy:
    """Return the counter of this process: the load generator."""
    return Busy([os.getpid()])


def process_tree(pid: int) -> tuple[int, ...]:
    """Return a process and its descendants."""
    found = [pid]
    for parent in found:
        for children in (_PROC / str(parent) / "task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return tuple(dict.fromkeys(found))


def _seconds(pid: int) -> float | None:
    """Return the seconds that all threads of a process ran or waited to run; None: unknown."""
    total = None
    for schedstat in (_PROC / str(pid) / "task").glob("*/schedstat"):
        try:
            ran, waited, _ = schedstat.read_text().split()
        except (OSError, ValueError):  # the thread has ended, or the kernel does not count
            continue
        total = (total or 0.0) + (int(ran) + int(waited)) / 1e9
    return total
