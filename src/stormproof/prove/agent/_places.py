"""Places: which lines of a stack are the app's own, told apart from those of libraries."""

import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from itertools import islice
from types import CodeType, FrameType
from typing import Any

_MOST_FRAMES = 200
_SHOWN = 12

Line = tuple[CodeType, int]


class Places:
    """Knows the app's files: outside the standard library and site-packages, or beside a route."""

    def __init__(self) -> None:
        house = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        paths = sysconfig.get_paths()
        names = ("stdlib", "platstdlib", "purelib", "platlib")
        self._foreign = tuple({paths[name] + os.sep for name in names} | {house + os.sep})
        self._own: tuple[str, ...] = ()
        self._known: dict[str, bool] = {}

    def belong(self, endpoints: Iterable[Any]) -> None:
        """Take the packages of these endpoints for the app's, also when they are installed."""
        roots = set()
        for endpoint in endpoints:
            name = getattr(endpoint, "__module__", None) or ""
            top = name.partition(".")[0]
            if top in ("fastapi", "starlette", "functools", "builtins"):
                continue
            # stormproof's own demo is an app; the rooms beside it are a library all the same.
            module = sys.modules.get(name if top == "stormproof" else top)
            file = getattr(module, "__file__", None)
            if file:
                is_package = top != name or file.endswith("__init__.py")
                roots.add(os.path.dirname(file) + os.sep if is_package else file)
        self._own = tuple(roots)
        self._known = {}

    def is_own(self, file: str) -> bool:
        """Whether a file is the app's."""
        known = self._known.get(file)
        if known is None:
            known = self._known[file] = self._is_own(file)
        return known

    def _is_own(self, file: str) -> bool:
        if file.startswith(self._own) if self._own else False:
            return True
        if file.startswith("<") or f"{os.sep}dist-packages{os.sep}" in file:
            return False
        return f"{os.sep}site-packages{os.sep}" not in file and not file.startswith(self._foreign)

    def own(self, lines: Iterable[Line]) -> list[str]:
        """Return the app's lines of a stack, innermost last; the last ones where none is its own.

        Args:
            lines: Innermost first.
        """
        lines = list(lines)
        chosen = [line for line in lines if self.is_own(line[0].co_filename)] or lines[:5]
        return [shown(line) for line in reversed(chosen[:_SHOWN])]

    def innermost(self, lines: Iterable[Line]) -> Line | None:
        """Return the app's innermost line, None where there is none."""
        return next((line for line in lines if self.is_own(line[0].co_filename)), None)


def shown(line: Line) -> str:
    """Return "file:line in function"."""
    code, number = line
    return f"{code.co_filename}:{number} in {code.co_name}"


def frames_from(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame of the running thread and its callers, innermost first.

    SQLAlchemy runs synchronous code in a greenlet; its callers are those of the greenlet's parent.
    """
    parent = _parent_greenlet()
    while True:
        if frame is None:
            frame = getattr(parent, "gr_frame", None)
            parent = getattr(parent, "parent", None)
            if frame is None:
                return
        yield frame
        frame = frame.f_back


def depth_of(frame: FrameType | None) -> int:
    """Return how many frames a frame and its callers are."""
    depth = 0
    while frame is not None:
        depth += 1
        frame = frame.f_back
    return depth


def lines_from(frame: FrameType | None) -> list[Line]:
    """Return code and line of a frame and of its callers, innermost first."""
    return [(each.f_code, each.f_lineno) for each in islice(frames_from(frame), _MOST_FRAMES)]


def _parent_greenlet() -> Any:
    greenlet = sys.modules.get("greenlet")
    return None if greenlet is None else greenlet.getcurrent().parent
