"""Routes: the app's tree of routes as plain facts, and which of them a request went to."""

import functools
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ._arrival import Arrival

_NO_ROUTE = "(no route)"
_MOST_REBUILDS = 50


@dataclass(frozen=True, slots=True)
class Found:
    """A route where it lies in the tree.

    Attributes:
        template: Its whole path, `/items/{id}`.
        key: What a request's scope carries for it: the route, or FastAPI's context of it.
        view: What has its attributes in this place: the route, a copy, or the context.
    """

    template: str
    key: Any
    view: Any


class Routes:
    """Names requests after the route that took them: "GET /items/{id}"."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._rebuilds = 0
        self._by_object: dict[int, list[Found]] = {}
        self._patterns: list[tuple[re.Pattern[str], Found]] = []

    def name(self, arrival: Arrival) -> str:
        """Return method and template of a request; from any thread.

        Before routing, and where a middleware has copied the scope, the path decides; what
        matches no route is "GET (no route)".
        """
        if arrival.name:
            return arrival.name
        return f"{arrival.method} {self._template(arrival)}"

    def facts(self) -> list[dict[str, Any]]:
        """Return all routes of the app and of the apps mounted in it."""
        return [fact for found in walk(self._app) for fact in _facts(found)]

    def endpoints(self) -> list[Any]:
        """Return the functions and apps behind all routes."""
        return [_endpoint(found) for found in walk(self._app)]

    def of_lines(self, lines: list[tuple[str, int, str]]) -> str | None:
        """Return the one route whose endpoint is among these lines; None when there are more."""
        places = {(file, function) for file, _, function in lines}
        found = set()
        for fact in self.facts():
            if (fact["file"], fact["function"]) in places:
                found.add(f"{fact['method']} {fact['path']}")
        return found.pop() if len(found) == 1 else None

    def _template(self, arrival: Arrival) -> str:
        scope = arrival.scope
        if scope is not None:
            context = scope.get("fastapi", {}).get("effective_route_context")
            route = scope.get("route")
            if context is not None and getattr(context, "original_route", None) is not route:
                # A route of Starlette in an included router is known by its context alone; an
                # app mounted in one has a route of its own, and the context is the mount's.
                context = None if id(route) in self._by_object else context
            for key in (context, route):
                found = key is not None and self._lookup(key, arrival.path)
                if found:
                    return found
        return self._matched(arrival.path)

    def _lookup(self, key: Any, path: str) -> str | None:
        places = self._by_object.get(id(key))
        if places is None and self._rebuilds < _MOST_REBUILDS:
            self._rebuild()
            places = self._by_object.get(id(key))
        if not places:
            return None
        if len(places) == 1:
            return places[0].template
        fitting = (found for found in places if _pattern(found).fullmatch(path))
        return next(fitting, places[0]).template

    def _rebuild(self) -> None:
        self._rebuilds += 1
        by_object: dict[int, list[Found]] = {}
        patterns = []
        for found in walk(self._app):
            by_object.setdefault(id(found.key), []).append(found)
            patterns.append((_pattern(found), found))
        self._by_object, self._patterns = by_object, patterns

    def _matched(self, path: str) -> str:
        if not self._patterns:
            self._rebuild()
        for pattern, found in self._patterns:
            if pattern.fullmatch(path):
                return found.template
        return _NO_ROUTE


def walk(app: Any, prefix: str = "") -> Iterator[Found]:
    """Yield every route below `app`, in the order of matching, with its whole template."""
    for key, view in _views(getattr(app, "routes", None) or ()):
        below = getattr(view, "_base_app", None)
        if below is None and type(view).__name__ == "Host":
            below = view.app
        if below is None:
            yield Found(prefix + _written(view, "path_format"), key, view)
            continue
        inner = prefix + _written(view, "path").rstrip("/")
        if getattr(below, "routes", None):
            yield from walk(below, inner)
        else:
            yield Found(inner + "/{path}", key, view)


def _written(view: Any, attribute: str) -> str:
    return str(getattr(view, attribute, None) or getattr(view, "path", None) or "")


def _views(routes: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what a request carries for each route, and what has its attributes."""
    contexts = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
    if contexts is None:
        yield from ((route, route) for route in routes)
        return
    for outer in contexts(list(routes)):
        # Requests carry the inner context; the public one is made anew at each walk.
        inner = getattr(outer, "_route_context", None)
        if inner is None:
            yield outer.route, outer.route
        else:
            yield inner, getattr(inner, "starlette_route", None) or inner


def _pattern(found: Found) -> re.Pattern[str]:
    pieces = re.split(r"(\{[^}]*\})", found.template)
    written = _written(found.view, "path")
    matched = []
    for piece in pieces:
        if not piece.startswith("{"):
            matched.append(re.escape(piece))
            continue
        name = piece[1:-1]
        is_path = f"{{{name}:path}}" in written or found.template.endswith("/{path}")
        matched.append(".*" if is_path else "[^/]+")
    return re.compile("".join(matched))


def _facts(found: Found) -> Iterator[dict[str, Any]]:
    endpoint = _endpoint(found)
    file, line, function = place_of(endpoint)
    is_socket = "WebSocket" in type(found.view).__name__
    is_async = is_coroutine_callable(endpoint)
    fact = {
        "path": found.template,
        "is_async": is_async,
        "has_sync_part": not is_async or _has_sync_dependency(found.view),
        "file": file,
        "line": line,
        "function": function,
        "in_schema": bool(getattr(found.view, "include_in_schema", False)) and not is_socket,
        "kind": _kind(found, endpoint),
    }
    methods = ["WEBSOCKET"] if is_socket else sorted(getattr(found.view, "methods", None) or ())
    for method in methods or ["GET"]:
        yield {"method": method, **fact}


def _endpoint(found: Found) -> Any:
    return getattr(found.view, "endpoint", None) or getattr(found.view, "app", None)


def _kind(found: Found, endpoint: Any) -> str:
    name = type(found.view).__name__
    if "WebSocket" in name:
        return "websocket"
    if getattr(found.view, "is_sse_stream", False):
        return "sse"
    if getattr(found.view, "is_json_stream", False):
        return "jsonl"
    if "Mount" in name or "Host" in name:
        return "mount"
    if getattr(endpoint, "__module__", "") == "fastapi.applications":
        return "builtin"
    return "http"


def _has_sync_dependency(context: Any) -> bool:
    waiting = list(getattr(getattr(context, "dependant", None), "dependencies", ()))
    while waiting:
        dependant = waiting.pop()
        if dependant.call is not None and not is_coroutine_callable(dependant.call):
            return True
        waiting.extend(dependant.dependencies)
    return False


def is_coroutine_callable(call: Any) -> bool:
    """Whether calling it runs on the loop (an async function or generator), not in a thread."""
    while isinstance(call, functools.partial):
        call = call.func
    for candidate in (call, inspect.unwrap(call) if callable(call) else call):
        if inspect.iscoroutinefunction(candidate) or inspect.isasyncgenfunction(candidate):
            return True
    if inspect.isclass(call) or inspect.isroutine(call):
        return False
    dunder = getattr(call, "__call__", None)  # noqa: B004 - the method is needed, not an answer
    return inspect.iscoroutinefunction(dunder) or inspect.isasyncgenfunction(dunder)


def place_of(call: Any) -> tuple[str, int, str]:
    """Return file, first line and name of a function, or nothing without Python code."""
    while isinstance(call, functools.partial):
        call = call.func
    if callable(call):
        call = inspect.unwrap(call)
    if not hasattr(call, "__code__") and not inspect.isclass(call):
        call = getattr(type(call), "__call__", call)  # noqa: B004 - the code is needed
    code = getattr(call, "__code__", None)
    return ("", 0, "") if code is None else (code.co_filename, code.co_firstlineno, code.co_name)
