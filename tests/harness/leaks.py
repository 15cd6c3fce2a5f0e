"""What a test left behind: tasks, threads and file descriptors, named."""

import asyncio
import gc
import os
import threading
import time
from dataclasses import dataclass

_THREAD_LIMIT = 1.0
# anyio keeps idle workers until its root task ends, and does not join them.
_TOLERATED_THREAD = "AnyIO worker thread"
_DESCRIPTORS = "/proc/self/fd"


@dataclass(frozen=True, slots=True)
class Holdings:
    """The threads and the descriptors (number and target) of this process at one moment."""

    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[str, str]]


def current_holdings() -> Holdings:
    """Return what this process holds now."""
    return Holdings(frozenset(threading.enumerate()), _open_descriptors())


def describe_new_holdings(before: Holdings) -> list[str]:
    """Return a line for each thread and descriptor that is there now and was not `before`.

    Threads that are about to end get one second, in all, to do so.
    """
    lines = [f"thread {thread.name!r}" for thread in _new_threads(before.threads)]
    opened = _open_descriptors() - before.descriptors
    if opened:
        gc.collect()  # only now: it costs tens of milliseconds
        opened &= _open_descriptors()
    return lines + [f"descriptor {number}: {target}" for number, target in sorted(opened)]


def describe_pending_tasks(loop: asyncio.AbstractEventLoop) -> list[str]:
    """Return a line for each task on `loop` (which must not run) that is not done."""
    return sorted(f"task {task!r}" for task in asyncio.all_tasks(loop))


def _new_threads(before: frozenset[threading.Thread]) -> list[threading.Thread]:
    give_up_at = time.monotonic() + _THREAD_LIMIT
    started = [thread for thread in threading.enumerate() if thread not in before]
    suspects = [thread for thread in started if not thread.name.startswith(_TOLERATED_THREAD)]
    for thread in suspects:
        thread.join(max(0.0, give_up_at - time.monotonic()))
    return [thread for thread in suspects if thread.is_alive()]


def _open_descriptors() -> frozenset[tuple[str, str]]:
    """Return number and target of each descriptor; nothing where there is no /proc.

    Devices are left out: libraries open /dev/urandom and its like once and keep it.
    """
    found = set()
    try:
        numbers = os.listdir(_DESCRIPTORS)
    except FileNotFoundError:
        return frozenset()
    for number in numbers:
        try:
            target = os.readlink(f"{_DESCRIPTORS}/{number}")
        except FileNotFoundError:
            continue  # the descriptor that listed the folder
        if not target.startswith("/dev/"):
            found.add((number, target))
    return frozenset(found)
