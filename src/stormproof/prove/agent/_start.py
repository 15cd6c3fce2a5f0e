"""The start: nothing happens in a process until it imports a library that is watched."""

import os
import sys
from collections.abc import Callable
from typing import Any

from ._imports import watch_imports

SOCKET = "_STORMPROOF_AGENT"
"""The environment variable that holds the path of prove's socket."""


def start() -> None:
    """Watch the imports of this process, if prove has asked for it; returns at once.

    Called by `sitecustomize` in every Python process that the app starts. What goes wrong here or
    later is one line of the error output, and the app runs on without the agent.
    """
    path = os.environ.get(SOCKET)
    if path:
        watch_imports(_Lazy(path).callbacks())


class _Lazy:
    """Makes the agent when the first watched library has been imported."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._installed: Any = None

    def callbacks(self) -> dict[str, Callable[[Any], None]]:
        """Return what to call with each watched module once it has been executed."""
        # Importing the agent's parts costs 20 ms, which a process without a web app does not pay.
        names = (
            "starlette.applications", "starlette.background", "fastapi.background", "sqlalchemy",
            "uvloop", "stormproof.tasks._roll",
        )  # fmt: skip
        return {name: self._callback(name) for name in names}

    def _callback(self, name: str) -> Callable[[Any], None]:
        def call(module: Any) -> None:
            try:
                if self._installed is None:
                    from ._install import Installation

                    self._installed = Installation(self._path)
                self._installed.patch(name, module)
            except Exception as error:
                sys.stderr.write(f"stormproof prove: no agent for {name}: {error!r}\n")

        return call
