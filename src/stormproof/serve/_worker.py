"""A worker: a fresh process that serves on its parent's sockets and tells how it fares."""

import asyncio
import faulthandler
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import uvicorn

from stormproof._core.events import PhaseEntered
from stormproof._core.lifecycle import Lifecycle
from stormproof.errors import StormproofError
from stormproof.fastapi import installed_drain
from stormproof.lifecycle import Drain, Uvicorn

from ._child import DUMP_SIGNAL
from ._link import answer_on
from ._load import load_app
from ._logs import log_phases, set_up_logs
from ._options import OVERTIME, ServeOptions
from ._run import (
    EXIT_CLEAN,
    EXIT_LOST_OR_NOT_STARTED,
    leave_after,
    lifecycle_of,
    observer_of,
    run_server,
    server_config,
)
from ._wire import Wire

_BEAT = 0.25
"""Seconds between two signs of life, sent by the event loop itself."""

_STDERR = 2

Command = dict[str, Any]


def main(setup: str) -> int:
    """Serve what `setup` (JSON, from the parent) names until told to drain; the exit code."""
    faulthandler.register(DUMP_SIGNAL, file=_STDERR, all_threads=True)
    for ignored in (signal.SIGINT, signal.SIGHUP):
        # Ctrl-C and a closed terminal reach the whole group, but the parent decides. A handler,
        # because SIG_IGN would be inherited by the processes that the app starts.
        signal.signal(ignored, _leave_it_to_the_parent)
    given = json.loads(setup)
    listeners = [socket.socket(fileno=number) for number in given["listeners"]]
    end = socket.socket(fileno=given["wire"])
    admin = socket.socket(fileno=given["admin"]) if "admin" in given else None
    for inherited in (end, *listeners, *filter(None, (admin,))):
        inherited.set_inheritable(False)
    parent = _Parent(Wire(end))
    try:
        options = ServeOptions(**given["options"])
        return _serve(given["target"], options, listeners, parent, admin)
    except StormproofError as error:
        _tell_failure(parent.wire, error)
        return EXIT_LOST_OR_NOT_STARTED


def _serve(
    target: str | None,
    options: ServeOptions,
    listeners: list[socket.socket],
    parent: "_Parent",
    admin: socket.socket | None,
) -> int:
    app = load_app(target)
    lifecycle = lifecycle_of(app, options)
    drain = installed_drain(app)
    assert drain is not None  # lifecycle_of() has installed it
    label, phase = f"stormproof[{os.getpid()}]", lambda: lifecycle.phase.value
    set_up_logs(options.log_format, label=label, phase=phase)
    observer = observer_of(app, options)
    if observer is not None and admin is not None:
        answer_on(admin, observer)
    server = _Server(server_config(app, options, observer), listeners, parent, drain)
    with ExitStack() as stack:
        stack.callback(log_phases(lifecycle))
        stack.callback(lifecycle.events.subscribe(_Teller(parent.wire, lifecycle)))
        code = run_server(server, listeners, lifecycle)
    if drain.start_error is not None:
        _tell_failure(parent.wire, drain.start_error)
    parent.wire.tell("ended", lost=len(lifecycle.losses))
    return code


class _Server(uvicorn.Server):
    """uvicorn under a parent: it drains when the parent says so, or when the parent is gone."""

    def __init__(
        self,
        config: uvicorn.Config,
        listeners: list[socket.socket],
        parent: "_Parent",
        drain: Drain,
    ) -> None:
        super().__init__(config)
        self._listeners = listeners
        self._parent = parent
        self._drain = drain
        self._uvicorn = Uvicorn(self)
        self._starting: asyncio.Task[Any] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Obey the parent inside the block, and SIGTERM as if it came from the parent."""
        loop = asyncio.get_running_loop()
        self._starting = asyncio.current_task()
        # Under systemd a worker gets SIGTERM and its parent's word for the same thing: they must
        # not count as two signals, of which the second forces.
        self._drain.is_commanded = True
        loop.add_signal_handler(signal.SIGTERM, self._obey, {"what": "drain"})
        loop.add_signal_handler(signal.SIGINT, _leave_it_to_the_parent)
        self._beat(loop)
        self._parent.obeyed_by(lambda command: self._hear(loop, command))
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell the parent when the first client can be served."""
        await super().startup(sockets)
        self._starting = None
        self._parent.wire.tell("ready", grace=self._drain.lifecycle.grace)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._parent.wire.tell("beat")
        loop.call_later(_BEAT, self._beat, loop)

    def _hear(self, loop: asyncio.AbstractEventLoop, command: Command) -> None:
        """Hand a command to the loop; runs on the listening thread."""
        if command["what"] == "orphaned":
            leave_after(self._drain.lifecycle.grace + OVERTIME)  # also when the loop is blocked
        loop.call_soon_threadsafe(self._obey, command)

    def _obey(self, command: Command) -> None:
        if self._starting is not None:
            self._give_up_start()
            return
        if command["what"] in ("retire", "orphaned"):
            # Successors listen to the same queue, so nobody is turned away; without a parent
            # the next one has to be able to listen.
            self._uvicorn.stop_listening()
        self._drain.begin(self._uvicorn, prestop=command.get("prestop"))
        if command["what"] == "force":
            self._drain.force()

    def _give_up_start(self) -> None:
        """Cancel the start: nobody was served, and what has opened is closed again."""
        # A socket that is open here but not served would let clients connect and hang.
        for listener in self._listeners:
            listener.close()
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # not a failure to explain
        if self._starting is not None:
            self._starting.cancel()


class _Parent:
    """What the parent says, heard by a thread: also while a start blocks the loop."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._lock = threading.Lock()
        self._obey: Callable[[Command], object] | None = None
        threading.Thread(target=self._listen, name="stormproof parent", daemon=True).start()

    def obeyed_by(self, obey: Callable[[Command], object]) -> None:
        """Hand each later command to `obey`, on the listening thread."""
        with self._lock:
            self._obey = obey

    def _listen(self) -> None:
        while (commands := self.wire.receive()) is not None:
            for command in commands:
                self._hand_on(command)
        # The parent is gone without a word (kill -9): nobody would ever replace or end us.
        self._hand_on({"what": "orphaned"})

    def _hand_on(self, command: Command) -> None:
        with self._lock:
            obey = self._obey
        if obey is None:
            os._exit(EXIT_CLEAN)  # the app is being imported: nothing has begun
        with suppress(RuntimeError):  # the loop is closed: the end is near anyway
            obey(command)


class _Teller:
    """Tells the parent when the drain begins, whoever began it."""

    def __init__(self, wire: Wire, lifecycle: Lifecycle) -> None:
        self._wire = wire
        self._lifecycle = lifecycle

    def __call__(self, event: object) -> None:
        if isinstance(event, PhaseEntered) and event.phase == "draining":
            self._wire.tell("draining", grace=self._lifecycle.grace)


def _tell_failure(wire: Wire, error: StormproofError) -> None:
    wire.tell("failed", cause=type(error).__name__, message=error.message)


def _leave_it_to_the_parent(*_: object) -> None:
    """Do nothing."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
