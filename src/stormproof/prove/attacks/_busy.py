"""How busy processes are: the share of the time in which they ran, or waited for a core to run."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stormproof.prove._attack import Scene

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What the busiest process of some did, as shares of the time.

    Attributes:
        ran: It ran, on any core; all its threads added up.
        busy: It ran, or could have run had a core been free: 1 where it waits for nothing else.
    """

    ran: float
    busy: float

    @property
    def starved(self) -> float:
        """Share of the time in which it waited for a core."""
        return max(0.0, self.busy - self.ran)


_BUSY = 0.85
_RAN = 0.45
_COST = 0.15
"""Measured: 0.02 to 0.08 where callers wait for slots of 50 ms, 0.17 to 0.9 where they do not."""


def is_cpu_limited(use: Use, *, rate: float, seconds: float) -> bool:
    """Whether a process had so much to do that nothing else limits it.

    It was busy all the time, and either ran for much of it, or a request costs a good part of
    its answer time as CPU: on a crowded machine a process that has little to do waits for a core
    each time it has, and looks busy.

    Args:
        use: What the process did.
        rate: Requests per second meanwhile.
        seconds: What a request takes under light load.
    """
    if use.busy < _BUSY:
        return False
    return use.ran >= _RAN or use.ran >= _COST * seconds * rate


class Busy:
    """Counts from when it is made; Linux only, elsewhere `use` is None.

    Waiting for a core counts: on a machine with other work a process that never waits for
    anything else gets only a part of a core, and its CPU seconds alone would not show that it
    is the bottleneck. A process is as busy as its busiest thread (the event loop's), or as all
    of them together while they run, where they share one interpreter lock.

    Args:
        pids: The processes, for instance the workers of a server.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._began_at = time.monotonic()
        self._before = {pid: _threads(pid) for pid in pids}

    def use(self) -> Use | None:
        """Return what the busiest process has done since."""
        took = max(time.monotonic() - self._began_at, 1e-9)
        uses = [_use(before, _threads(pid), took) for pid, before in self._before.items() if before]
        return max(uses, key=lambda use: use.busy, default=None)


def server_pids(scene: Scene) -> frozenset[int]:
    """Return the server's processes: those with the agent inside, or all of the tree."""
    if scene.agent is not None and scene.agent.pids:
        return scene.agent.pids
    found = [scene.target.pid]
    for parent in found:
        for children in (_PROC / str(parent) / "task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return frozenset(found)


def _use(
    before: Mapping[str, tuple[float, float]],
    after: Mapping[str, tuple[float, float]],
    took: float,
) -> Use:
    ran = longest = 0.0
    for thread, (ran_after, waited_after) in after.items():
        ran_before, waited_before = before.get(thread, (0.0, 0.0))
        ran += ran_after - ran_before
        longest = max(longest, ran_after - ran_before + waited_after - waited_before)
    return Use(ran=ran / took, busy=min(1.0, max(ran, longest) / took))


def _threads(pid: int) -> dict[str, tuple[float, float]]:
    """Return for each thread the seconds that it ran and that it waited to run."""
    found = {}
    for schedstat in (_PROC / str(pid) / "task").glob("*/schedstat"):
        try:
            ran, waited, _ = schedstat.read_text().split()
        except (OSError, ValueError):  # the thread has ended, or the kernel does not count
            continue
        found[schedstat.parent.name] = (int(ran) / 1e9, int(waited) / 1e9)
    return found
