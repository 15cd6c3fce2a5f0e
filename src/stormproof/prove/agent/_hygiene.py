"""Hygiene: coroutines never awaited, exceptions never looked at, tasks destroyed while pending."""

import sys
import types
import warnings
from typing import Any

from ._places import Line, lines_from
from ._rate import Rate
from ._requests import Requests
from ._tasks import Tasks, code_of

_MOST_A_SECOND = 10
_WHAT = {
    "Task exception was never retrieved": "never-retrieved",
    "Future exception was never retrieved": "never-retrieved",
    "Task was destroyed but it is pending!": "destroyed-pending",
}


class Hygiene:
    """Reports each fault with the request and the line it comes from, as far as these are known."""

    def __init__(self, requests: Requests, tasks: Tasks) -> None:
        self._requests = requests
        self._tasks = tasks
        self._rate = Rate(_MOST_A_SECOND)

    def never_awaited(self, coro: Any) -> None:
        """A coroutine was dropped before it had begun."""
        frame = sys._getframe(2)
        line: Line | None = (frame.f_code, frame.f_lineno)
        if not self._is_own(line):
            line = _beginning(coro.cr_code)
        route, _ = self._requests.where()
        message = f"coroutine '{coro.__qualname__}' was never awaited"
        self._tell("never-awaited", message, route, line)

    def handler_called(self, context: dict[str, Any]) -> None:
        """The loop's exception handler was called; what the faults are not is left alone."""
        what = _WHAT.get(context.get("message", ""))
        if what is None:
            return
        task = context.get("task") or context.get("future")
        error = context.get("exception")
        message = context["message"] if error is None else f"{context['message']}: {error!r}"
        birth = self._tasks.birth(task)
        route, _ = self._requests.where()
        if birth is not None:
            route = self._requests.name(birth.arrival)
        line = self._raised_at(error) or _beginning(code_of(task))
        self._tell(what, message[:500], route, line)

    def _raised_at(self, error: BaseException | None) -> Line | None:
        lines = []
        trace = None if error is None else error.__traceback__
        while trace is not None:
            lines.append((trace.tb_frame.f_code, trace.tb_lineno))
            trace = trace.tb_next
        return self._requests.places.innermost(reversed(lines))

    def _is_own(self, line: Line | None) -> bool:
        return line is not None and self._requests.places.is_own(line[0].co_filename)

    def _tell(self, what: str, message: str, route: str | None, line: Line | None) -> None:
        if line is None:
            line = self._requests.places.innermost(lines_from(sys._getframe(2)))
        file, number = ("", 0) if line is None else (line[0].co_filename, line[1])
        if self._rate.allows((what, file, number)):
            facts = {"what": what, "message": message, "route": route}
            self._requests.wire.emit("hygiene", {**facts, "file": file, "line": number})


def patch_warnings(hygiene: Hygiene) -> None:
    """Wrap what the interpreter calls for a dropped coroutine; the warning itself stays the same.

    The wrapper is one frame more, so the warning is raised one level further up.
    """
    original: Any = getattr(warnings, "_warn_unawaited_coroutine", None)
    if not isinstance(original, types.FunctionType):
        return

    def warn(message: Any, category: Any = None, stacklevel: int = 1, source: Any = None) -> None:
        warnings.warn(message, category, stacklevel=stacklevel + 2, source=source)

    shifted = types.FunctionType(original.__code__, {**original.__globals__, "warn": warn})

    def warn_unawaited_coroutine(coro: Any) -> None:
        try:
            hygiene.never_awaited(coro)
        finally:
            shifted(coro)

    warnings._warn_unawaited_coroutine = warn_unawaited_coroutine  # type: ignore[attr-defined]


def patch_exception_handler(loop_class: Any, hygiene: Hygiene) -> None:
    """Wrap `call_exception_handler` of a class of loops; the app's own handler still decides."""
    original = loop_class.call_exception_handler

    def call_exception_handler(self: Any, context: dict[str, Any]) -> None:
        try:
            hygiene.handler_called(context)
        finally:
            original(self, context)

    loop_class.call_exception_handler = call_exception_handler


def _beginning(code: Any) -> Line | None:
    return None if code is None else (code, code.co_firstlineno)
