"""The installation: puts each part of the agent into the library it watches."""

import atexit
import os
import signal
from collections.abc import Callable
from typing import Any

from ._background import Background, patch_background, patch_fastapi_background
from ._census import Census
from ._commits import Commits
from ._exhaustion import Exhaustion
from ._holds import Holds
from ._requests import Requests, patch_starlette
from ._sqlalchemy import patch_sqlalchemy
from ._stalls import Stalls
from ._supervised import patch_roll
from ._wire import Wire


class Installation:
    """All parts of the agent in this process, on one wire."""

    def __init__(self, path: str) -> None:
        self.wire = Wire(path)
        self.requests = Requests(self.wire)
        self.holds = Holds(self.wire, self.requests)
        self.background = Background(self.requests)
        self.census = Census(self.requests, self.holds)
        self.commits = Commits(self.requests, self.holds)
        self.exhaustion = Exhaustion(self.requests, self.holds)
        self.stalls = Stalls(self.requests)
        self.requests.on_ready.append(self.stalls.start)
        self._obey()
        self.wire.on_break.append(self._let_go)
        os.register_at_fork(after_in_child=self._forked)
        atexit.register(self.wire.flush)
        _flush_before_signal(self.wire)

    def patch(self, name: str, module: Any) -> None:
        """Patch a library that has just been imported."""
        patches: dict[str, Callable[[], None]] = {
            "starlette.applications": lambda: patch_starlette(module, self.requests),
            "starlette.background": lambda: patch_background(module, self.background),
            "fastapi.background": lambda: patch_fastapi_background(module, self.background),
            "sqlalchemy": lambda: patch_sqlalchemy(module, self.holds),
            "stormproof.tasks._roll": lambda: patch_roll(module, self.requests),
        }
        patches[name]()

    def _obey(self) -> None:
        self.wire.commands.update(
            {
                "census": lambda _: self.census.facts(),
                "collect": self.census.collect,
                "fail-commits": lambda asked: self.commits.switch(on=bool(asked["on"])),
                "exhaust-pools": lambda _: self.exhaustion.take(),
                "release-pools": lambda _: self.exhaustion.give_back(),
            }
        )

    def _let_go(self) -> None:
        """Undo what was commanded: prove is gone, and the app is somebody's."""
        self.commits.switch(on=False)
        self.exhaustion.give_back()

    def _forked(self) -> None:
        self.wire.forked()
        self.requests.forked()
        self.holds.forked()
        self.stalls.forked()


def _flush_before_signal(wire: Wire) -> None:
    """Send the last words of a server that ends by raising its signal again, as uvicorn does."""
    raise_signal = signal.raise_signal

    def flush_and_raise(number: int, /) -> None:
        wire.flush()
        raise_signal(number)

    signal.raise_signal = flush_and_raise
