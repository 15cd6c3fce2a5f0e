"""The arrival: the request in flight, told by a context variable to all that it causes."""

import time
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

Scope = MutableMapping[str, Any]

HEADER = b"x-stormproof-id"


class Arrival:
    """One request from its first line of code to its last.

    Attributes:
        id: What the client calls it, or None.
        name: Its route, as `name_it` was told when it had ended.
        scope: The ASGI scope while it is in flight.
        status: Of the answer, 0 before it has begun.
        tasks: Weak references to the tasks that were created in it.
        promised: Background tasks that were made in it and have not begun.
    """

    __slots__ = (
        "_path", "_root", "began", "id", "method", "name", "promised", "scope", "status", "tasks",
    )  # fmt: skip

    def __init__(self, scope: Scope) -> None:
        self.began = time.monotonic()
        self.id = _id_of(scope)
        self.method: str = scope.get("method") or scope["type"].upper()
        self.status = 0
        self.tasks: list[Any] = []
        self.promised: dict[int, Any] = {}
        self.scope: Scope | None = scope
        self.name = ""
        self._path: str = scope.get("path", "")
        self._root: str = scope.get("root_path", "")

    @property
    def path(self) -> str:
        """The path that was asked for, below the server's own prefix."""
        path = self._path
        return path[len(self._root) :] if self._root and path.startswith(self._root) else path

    def name_it(self, route: str) -> None:
        """Keep the route's name and let go of the scope: contexts of long tasks hold this."""
        self.name = route
        self.scope = None


def _id_of(scope: Scope) -> int | None:
    for key, value in scope["headers"]:
        if key == HEADER:
            try:
                return int(value)
            except ValueError:
                return None
    return None


CURRENT: ContextVar[Arrival | None] = ContextVar("stormproof_prove_arrival", default=None)
"""The request that the running code belongs to; threads and tasks of a request inherit it."""

IS_OURS: ContextVar[bool] = ContextVar("stormproof_prove_is_ours", default=False)
"""Whether the running code is the agent's own, so that it is not told as the app's."""
