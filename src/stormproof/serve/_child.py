"""A worker process as its parent sees it."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from enum import Enum

from stormproof import errors
from stormproof.errors import StormproofError

from ._link import Workforce
from ._options import ServeOptions
from ._wire import Wire

_log = logging.getLogger("stormproof")

DUMP_SIGNAL = signal.SIGUSR1
"""On this signal a worker writes the stacks of all its threads, even while a C call blocks it."""

_DUMP_TIME = 0.5
"""Seconds that a condemned worker gets to write its stacks."""

_MARGIN = 2.0
"""Seconds past its shutdown deadline after which a worker is killed; it ends itself after 1."""

_INTERRUPTED_START = 5.0
"""Seconds that a worker whose start is interrupted gets to clean up."""

_FORCED = 0.8
"""Seconds that a second signal leaves to each worker; half a second of it is for clean-up."""


class ChildState(Enum):
    """What a worker has said last of itself."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What every worker is started with."""

    target: str | None
    options: ServeOptions
    listeners: Sequence[socket.socket]
    folder: str
    workforce: Workforce | None = None

    def start(self) -> tuple["subprocess.Popen[bytes]", socket.socket]:
        """Start a fresh process; returns it and the parent's end of the wire to it."""
        with ExitStack() as stack:
            ours, theirs = _socket_pair(stack)
            asking, answering = _socket_pair(stack)
            ends = [theirs, *self.listeners]
            setup: dict[str, object] = {
                "wire": theirs.fileno(),
                "listeners": [listener.fileno() for listener in self.listeners],
                "target": self.target,
                "options": asdict(self.options),
            }
            if self.workforce is not None:
                setup["admin"] = answering.fileno()
                ends.append(answering)
            process = subprocess.Popen(
                [sys.executable, "-m", "stormproof.serve._worker", json.dumps(setup)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                pass_fds=[end.fileno() for end in ends],
            )
            ours = ours.dup()
            ours.setblocking(False)
            if self.workforce is not None:
                self.workforce.join(process.pid, asking.dup())
            return process, ours


def _socket_pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Return a pair that is closed at the end of `stack`."""
    ours, theirs = socket.socketpair()
    return stack.enter_context(ours), stack.enter_context(theirs)


class Child:
    """One worker process; a fresh interpreter, never a fork of the parent.

    Attributes:
        state: What it has said last.
        started_at: When it was started.
        ready_at: When it began to serve, or None.
        failure: Why it could not start, in its own words, or None.
        lost: How much acknowledged work it has reported as lost.
        kill_at: When it is to be killed, or None.
        is_killed: Whether it has been killed by the parent.
    """

    def __init__(self, recipe: Recipe, now: float) -> None:
        self._process, end = recipe.start()
        self._workforce = recipe.workforce
        self._wire = Wire(end)
        self._beat_at = now
        self._grace = recipe.options.grace or 30.0
        self.state = ChildState.STARTING
        self.started_at = now
        self.ready_at: float | None = None
        self.failure: StormproofError | None = None
        self.lost = 0
        self.kill_at: float | None = None
        self.is_killed = False

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def wire(self) -> Wire:
        """The parent's end of the wire."""
        return self._wire

    @property
    def exit_code(self) -> int | None:
        """The exit code (negative: the signal), or None while it runs."""
        return self._process.poll()

    def listen(self, now: float) -> bool:
        """Take in what the worker has said since the last time; False: it has hung up."""
        while messages := self._wire.receive():
            for message in messages:
                self._hear(message["what"], message, now)
        return messages is not None

    def _hear(self, what: str, message: dict[str, object], now: float) -> None:
        self._beat_at = now
        if what == "ready" and self.state is ChildState.STARTING:
            self.state = ChildState.READY
            self.ready_at = now
            self._grace = float(str(message["grace"]))
        elif what == "draining":
            self.state = ChildState.DRAINING
            self._kill_by(now + float(str(message["grace"])) + _MARGIN)
        elif what == "failed":
            cause = getattr(errors, str(message["cause"]), StormproofError)
            self.failure = cause(str(message["message"]))
        elif what == "ended":
            self.lost = int(str(message["lost"]))

    def stalled_for(self, now: float) -> float:
        """Return the seconds since its event loop last turned, 0 unless it serves."""
        return now - self._beat_at if self.state is ChildState.READY else 0.0

    def pardon(self, seconds: float) -> None:
        """Leave `seconds` out of account, in which the parent could not listen."""
        self._beat_at += seconds

    def drain(self, now: float, prestop: float | None) -> None:
        """Ask it to drain like at SIGTERM, or to give up its start."""
        self._wire.tell("drain", prestop=prestop)
        self._kill_by(now + self._time_to_end())

    def retire(self, now: float) -> None:
        """Ask it to accept nobody from now on, and to drain: its successor serves already."""
        self._wire.tell("retire")
        self._kill_by(now + self._time_to_end())

    def force(self, now: float) -> None:
        """Ask it to cut what is left."""
        self._wire.tell("force")
        self._kill_by(now + _FORCED)

    def condemn(self, now: float) -> bool:
        """Let it write the stacks of all its threads to its error output, and kill it then.

        Returns False, and does nothing, when it is to be killed by then anyway.
        """
        if self.kill_at is not None and self.kill_at <= now + _DUMP_TIME:
            return False
        self._signal(DUMP_SIGNAL)
        self._kill_by(now + _DUMP_TIME)
        return True

    def kill(self) -> None:
        """Kill it; harmless when it has ended."""
        self.is_killed = True
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Kill it if it still runs, wait for its end, and hang up."""
        self.kill()
        self._process.wait()
        self._wire.close()
        if self._workforce is not None:
            self._workforce.leave(self.pid)

    def _time_to_end(self) -> float:
        if self.state is ChildState.STARTING:
            return min(_INTERRUPTED_START, self._grace)
        return self._grace + _MARGIN

    def _kill_by(self, at: float) -> None:
        self.kill_at = at if self.kill_at is None else min(self.kill_at, at)

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:  # else the id may be somebody else's by now
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
