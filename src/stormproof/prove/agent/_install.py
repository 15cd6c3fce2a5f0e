"""The installation: puts each part of the agent into the library it watches."""

import asyncio
import atexit
import functools
import os
import signal
from collections.abc import Callable
from typing import Any

from ._background import Background, patch_background, patch_fastapi_background
from ._census import Census
from ._commits import Commits
from ._connects import Connects, patch_socket, patch_uvloop
from ._exhaustion import Exhaustion
from ._holds import Holds
from ._hygiene import Hygiene, patch_exception_handler, patch_warnings
from ._requests import Requests, patch_starlette
from ._sqlalchemy import patch_sqlalchemy
from ._stalls import Stalls
from ._supervised import patch_roll
from ._tasks import Tasks, patch_create_task
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
        self.tasks = Tasks(self.requests)
        self.hygiene = Hygiene(self.requests, self.tasks)
        self.connects = Connects(self.requests)
        self._patch_standard_library()
        self._obey()
        self.wire.on_break.append(self._let_go)
        os.register_at_fork(after_in_child=self._forked)
        atexit.register(self._say_last_words)

    def patch(self, name: str, module: Any) -> None:
        """Patch a library that has just been imported."""
        patches: dict[str, Callable[[], None]] = {
            "starlette.applications": lambda: patch_starlette(module, self.requests),
            "starlette.background": lambda: patch_background(module, self.background),
            "fastapi.background": lambda: patch_fastapi_background(module, self.background),
            "sqlalchemy": lambda: patch_sqlalchemy(module, self.holds),
            "uvloop": lambda: self._patch_uvloop(module),
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

    def _patch_standard_library(self) -> None:
        self._patch_loop(asyncio.BaseEventLoop)
        patch_warnings(self.hygiene)
        patch_socket(self.connects)
        # uvicorn ends by raising the signal again, where no `atexit` runs.
        _call_before(signal, "raise_signal", self._before_signal)
        # A timer outlives `exec`, and would kill a program that has no handler for it.
        for name in ("execv", "execve"):
            _call_before(os, name, self._say_last_words)

    def _patch_loop(self, loop_class: Any) -> None:
        patch_create_task(loop_class, self.tasks)
        patch_exception_handler(loop_class, self.hygiene)

    def _patch_uvloop(self, module: Any) -> None:
        self._patch_loop(module.Loop)
        patch_uvloop(module.Loop, self.connects)

    def _before_signal(self, number: int) -> None:
        if signal.getsignal(number) is signal.SIG_DFL:
            self._say_last_words()

    def _say_last_words(self, *_: object) -> None:
        self.stalls.stop()
        self.wire.flush()

    def _let_go(self) -> None:
        """Undo what was commanded: prove is gone, and the app is somebody's."""
        self.commits.switch(on=False)
        self.exhaustion.give_back()

    def _forked(self) -> None:
        self.wire.forked()
        self.requests.forked()
        self.holds.forked()
        self.stalls.forked()


def _call_before(module: Any, name: str, call: Callable[..., None]) -> None:
    """Call `call`, with the same arguments, before each call of a function of a module."""
    original = getattr(module, name)

    @functools.wraps(original)
    def calling(*args: Any, **kwargs: Any) -> Any:
        call(*args, **kwargs)
        return original(*args, **kwargs)

    setattr(module, name, calling)
