"""Places: the line of code where a suspended task waits."""

import asyncio
import sysconfig
from collections.abc import Iterator
from types import FrameType
from typing import Any


def waiting_place(task: "asyncio.Task[Any]") -> str:
    """Return "file:line in function" of the innermost frame outside the standard library.

    That is the caller's `await asyncio.sleep(9)`, not the line inside `asyncio.sleep`. An
    async generator in between ends the search: what it awaits cannot be seen from outside.
    """
    frames = list(_frames(task.get_coro()))
    if not frames:
        return "an unknown place"
    return _shown(next((f for f in reversed(frames) if not _is_in_stdlib(f)), frames[-1]))


def innermost_place(frame: FrameType) -> str:
    """Return the same for a thread that runs: its innermost frame outside the standard library."""
    found: FrameType | None = frame
    while found is not None and _is_in_stdlib(found):
        found = found.f_back
    return _shown(found or frame)


def _shown(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _frames(waiting: object) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine and of all it awaits, outermost first."""
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is not None:
            yield frame
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)


def _is_in_stdlib(frame: FrameType) -> bool:
    # site-packages is inside the folder of the standard library on most systems.
    file = frame.f_code.co_filename
    stdlib, packages = sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")
    return file.startswith(stdlib) and not file.startswith(packages)
