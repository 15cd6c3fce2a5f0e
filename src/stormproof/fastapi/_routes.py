"""Routes: which endpoint a request is for, also before the app has looked."""

import re
from collections.abc import Callable, Hashable
from functools import lru_cache

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from stormproof._core.asgi import Scope

_PATHS_KEPT = 1024

_Pattern = tuple[re.Pattern[str], frozenset[str] | None, Hashable]


def route_finder(app: FastAPI) -> Callable[[Scope], Hashable | None]:
    """Return what tells the endpoint of a scope; None for a path that has no route.

    Before the app has routed it is found by the routes' own patterns, in their order; the last
    paths are remembered. The routes are read when it is first asked.
    """
    patterns: list[_Pattern] = []

    @lru_cache(maxsize=_PATHS_KEPT)
    def found(method: str, path: str) -> Hashable | None:
        if not patterns:
            patterns.extend(_patterns_of(app))
        for pattern, methods, endpoint in patterns:
            if (methods is None or method in methods) and pattern.match(path):
                return endpoint
        return None

    def endpoint_of(scope: Scope) -> Hashable | None:
        endpoint: Hashable | None = scope.get("endpoint")
        if endpoint is not None:
            return endpoint
        return found(scope["method"], scope["path"].removeprefix(scope.get("root_path", "")))

    return endpoint_of


def _patterns_of(app: FastAPI) -> list[_Pattern]:
    patterns: list[_Pattern] = []
    for context in iter_route_contexts(app.routes):
        pattern = getattr(context, "path_regex", None)
        if pattern is not None and context.endpoint is not None:
            methods = None if context.methods is None else frozenset(context.methods)
            patterns.append((pattern, methods, context.endpoint))
    return patterns
