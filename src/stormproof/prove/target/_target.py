"""A running server as the attacks see it: signals go in; samples, output and its end come out."""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import psutil  # type: ignore[import-untyped]

from stormproof.errors import CouldNotProve
from stormproof.prove._recording import Exit, Sample
from stormproof.prove._secrets import without_secrets

MARKER = "STORMPROOF_PROVE_TARGET"
"""The environment variable by which a process is known as part of one target."""

TAIL = 4096
"""Characters of output in `tail`."""

_LEASH = Path(__file__).with_name("_leash.py")

_DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
"""The limit of open files before a load raises ours: the app runs with it."""

_FAREWELL = 2.0

_KILL_LIMIT = 10.0
"""Seconds within which a killed tree is gone; what the kernel holds longer cannot be waited for."""


class Target:
    """The server's processes.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        pid: Of its first process.
        samples: What the whole tree used, every 100 ms while it lived.
    """

    def __init__(self, port: int, zero: float) -> None:
        self.port = port
        self.pid = 0
        self.samples: list[Sample] = []
        self.failure = ""
        self.first_code: int | None = None
        self.output = ""
        self.has_first_ended = asyncio.Event()
        self._zero = zero
        self._marker = uuid4().hex
        self._leash: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._is_started = asyncio.Event()
        self._is_gone = asyncio.Event()
        self._has_hung_up = asyncio.Event()
        self._exit: Exit | None = None

    @property
    def tail(self) -> str:
        """The last 4 kB of its output, without passwords; what came before is dropped."""
        return without_secrets(self.output)[-TAIL:]

    @property
    def leash_pid(self) -> int:
        """Of the process that is the parent of all of them."""
        return self._leash.pid if self._leash is not None else 0

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the first process alone, as a platform does; ended: nothing happens."""
        with suppress(ProcessLookupError):
            if self.has_first_ended.is_set():
                return
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, number)
            else:
                os.kill(self.pid, number)

    async def ended(self, timeout: float) -> Exit | None:
        """Wait until the last of its processes is gone; None when one runs after `timeout` s.

        Cancelled: nothing changes.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._is_gone.wait()
        return self._exit

    async def kill(self) -> Exit:
        """Kill every process that is left, and wait until they are gone."""
        leash = self._leash
        if leash is not None and leash.stdin is not None and not leash.stdin.closed:
            with suppress(OSError):
                leash.stdin.write(b"kill\n")
        exit = await self.ended(_KILL_LIMIT)
        return exit or self._end(time.monotonic(), is_killed=True)

    # What follows is for `started`.

    async def start(
        self, command: Sequence[str], directory: Path, environment: Mapping[str, str]
    ) -> None:
        """Start the server on its leash; raises CouldNotProve when there is no such program."""
        setup = {
            "command": list(command),
            "directory": str(directory),
            "path": sys.path,
            "marker": (MARKER, self._marker),
            "descriptors": _DESCRIPTORS,
        }
        self._leash = leash = subprocess.Popen(  # noqa: ASYNC220 - takes milliseconds
            [sys.executable, "-I", "-S", str(_LEASH), json.dumps(setup)],
            env={**environment, MARKER: self._marker},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # the terminal's Ctrl-C is for prove
            bufsize=0,
        )
        await asyncio.get_running_loop().connect_read_pipe(lambda: _Reports(self), leash.stdout)
        await self._is_started.wait()
        if self.failure:
            raise CouldNotProve(f"{command[0]} cannot be run: {self.failure}")

    async def close(self) -> None:
        """Kill what is left and wait for it; cancelled meanwhile, it first comes to its end."""
        leash = self._leash
        if leash is None:
            return
        if leash.stdin is not None:
            leash.stdin.close()  # from here on the tree is as good as gone, whatever happens to us
        closing = asyncio.create_task(self._hang_up(leash))
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError as error:
                cancelled = error
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if cancelled is not None:
            raise cancelled

    async def _hang_up(self, leash: "subprocess.Popen[bytes]") -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_KILL_LIMIT):
                await self._has_hung_up.wait()
        try:
            leash.wait(_FAREWELL)  # hanging up is its last act but one
        except subprocess.TimeoutExpired:
            leash.kill()
            leash.wait()
        await self._has_hung_up.wait()

    # What the leash reports.

    def hear(self, report: Mapping[str, Any]) -> None:
        """Take in one report of the leash."""
        match report["what"]:
            case "started":
                self.pid = report["pid"]
                with suppress(OSError, AttributeError):
                    self._pidfd = os.pidfd_open(self.pid)
                self._is_started.set()
            case "failed":
                self.failure = report["message"]
                self._is_started.set()
            case "sample":
                at, *rest = report["facts"]
                self.samples.append(Sample(at - self._zero, *rest))
            case "output":
                self.output = report["text"]
            case "exited":
                self.first_code = report["code"]
                self.has_first_ended.set()
            case "gone":
                self._end(report["at"], is_killed=report["killed"])

    def hear_the_end(self) -> None:
        """The leash has hung up; unless all is gone, it was killed, and prove has to clean up."""
        if self._exit is None and not self.failure:
            self._sweep()
            self._end(time.monotonic(), is_killed=True)
        self._is_started.set()
        self._has_hung_up.set()

    def _end(self, at: float, *, is_killed: bool) -> Exit:
        if self._exit is None:
            code = None if is_killed else self.first_code
            self._exit = Exit(at=at - self._zero, code=code, is_killed=is_killed, tail=self.tail)
            self.has_first_ended.set()
            self._is_gone.set()
        return self._exit

    def _sweep(self) -> None:
        """Kill every process that carries the marker."""
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get(MARKER) == self._marker and process.pid != os.getpid():
                    process.kill()


class _Reports(asyncio.Protocol):
    """Reads the lines of the leash."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._rest = b""
        self._transport: asyncio.ReadTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.ReadTransport, transport)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._target.hear(json.loads(line))

    def connection_lost(self, error: Exception | None) -> None:
        self._target.hear_the_end()
