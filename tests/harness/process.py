"""A real server process: started in a folder of its own, watched, and never left behind."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, Signals
from types import TracebackType

from .children import dies_with_us, kill_group
from .client import request
from .eventually import until

_REPOSITORY = Path(__file__).parents[2]


class ServerEnded(RuntimeError):
    """The process ended although the test still needed it."""


def free_port() -> int:
    """Return a port on 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def uvicorn_app(app: str, port: int, *extra: str) -> list[str]:
    """Return the command that runs `module:app` under plain uvicorn."""
    command = [sys.executable, "-m", "uvicorn", app]
    return [*command, "--host", "127.0.0.1", "--port", str(port), *extra]


def serve_app(app: str, port: int, *extra: str) -> list[str]:
    """Return the command that runs `module:app` under `stormproof serve`."""
    command = [sys.executable, "-m", "stormproof", "serve", app]
    return [*command, "--host", "127.0.0.1", "--port", str(port), *extra]


class ServerProcess:
    """A command run as a process group of its own; `async with` starts it and kills the group.

    Modules in its folder and the `tests` package can be imported by the process.

    Attributes:
        folder: The working directory; a temporary one is removed at the end.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Describe the process; it starts on entering.

        Args:
            command: The program and its arguments.
            env: Added to this process's environment.
            files: Text by file name, written into the folder first (the app under test).
            folder: A folder that outlives the process, for one that is started again.
        """
        self.folder = folder or Path()
        self._command = list(command)
        self._env = dict(env or {})
        self._files = dict(files or {})
        self._is_folder_ours = folder is None
        self._process: subprocess.Popen[bytes] | None = None
        self._logs = Path()
        self._stdout = _GrowingText()
        self._stderr = _GrowingText()

    async def __aenter__(self) -> "ServerProcess":
        self._logs = Path(tempfile.mkdtemp(prefix="stormproof-logs-"))
        if self._is_folder_ours:
            self.folder = Path(tempfile.mkdtemp(prefix="stormproof-test-"))
        try:
            self._start()
        except BaseException:
            self._remove_folders()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Plain and blocking: SIGKILL takes milliseconds, and nothing can cancel it half-way.
        try:
            kill_group(self._running)
            if error is not None:
                error.add_note(self._report())
        finally:
            self._remove_folders()

    @property
    def pid(self) -> int:
        """The process id, which is also the id of the process group."""
        return self._running.pid

    @property
    def stdout(self) -> str:
        """What the process has printed so far."""
        return self._stdout.read(self._logs / "stdout")

    @property
    def stderr(self) -> str:
        """What the process has written to its error output so far."""
        return self._stderr.read(self._logs / "stderr")

    @property
    def output(self) -> str:
        """All of `stdout`, then all of `stderr`; kept after the process is gone."""
        return self.stdout + self.stderr

    def is_running(self) -> bool:
        """Return whether the process has not ended yet."""
        return self._running.poll() is None

    def signal(self, number: Signals) -> None:
        """Send a signal to the process itself, as a platform does (not to its group)."""
        self._expect_running(f"to take {number.name}")
        self._running.send_signal(number)

    async def wait_for_line(self, pattern: str, timeout: float = 5.0) -> re.Match[str]:
        """Wait for a line, old or new, of either output that matches the regular expression.

        Raises:
            ServerEnded: The process ended without having written it.
            TimeoutError: It did not come in time.
        """
        lines = re.compile(pattern, re.MULTILINE)

        def found() -> re.Match[str] | None:
            was_running = self.is_running()  # asked first: the last words may come at the end
            match = lines.search(self.output)
            if match is None and not was_running:
                self._expect_running(f"to write {pattern!r}")
            return match

        match = await until(found, timeout, what=f"a line matching {pattern!r}")
        assert match is not None
        return match

    async def wait_ready(self, port: int, path: str = "/livez", timeout: float = 10.0) -> None:
        """Wait until GET `path` is answered with a 2xx status."""

        async def is_answered() -> bool:
            self._expect_running("to become ready")
            answer = await request(port, "GET", path, timeout=1.0)
            return 200 <= answer.status < 300

        await until(is_answered, timeout, what=f"2xx from {path} on port {port}")

    async def wait_exit(self, timeout: float = 10.0) -> int:
        """Wait for the process to end and return its exit code (negative: the signal)."""
        await until(lambda: not self.is_running(), timeout, what="the process to end")
        return int(self._running.returncode)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the process is not started; use it in `async with`")
        return self._process

    def _start(self) -> None:
        for name, text in self._files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        with (self._logs / "stdout").open("wb") as out, (self._logs / "stderr").open("wb") as err:
            self._process = subprocess.Popen(
                dies_with_us(self._command),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        paths = [str(self.folder), str(_REPOSITORY), os.environ.get("PYTHONPATH", "")]
        importable = os.pathsep.join(path for path in paths if path)
        return {**os.environ, "PYTHONPATH": importable, "PYTHONUNBUFFERED": "1", **self._env}

    def _expect_running(self, what: str) -> None:
        if not self.is_running():
            code = self._running.returncode
            raise ServerEnded(f"expected the process {what}, but it ended with exit code {code}")

    def _report(self) -> str:
        state = "running until killed" if self._running.returncode == -SIGKILL else "ended"
        command = " ".join(self._command)
        return f"--- {command} ({state}, exit code {self._running.returncode}):\n" + self.output

    def _remove_folders(self) -> None:
        self._stdout.read(self._logs / "stdout")
        self._stderr.read(self._logs / "stderr")
        shutil.rmtree(self._logs, ignore_errors=True)
        if self._is_folder_ours:
            shutil.rmtree(self.folder, ignore_errors=True)


class _GrowingText:
    """A file another process appends to; each look reads only what is new."""

    def __init__(self) -> None:
        self._read = bytearray()

    def read(self, path: Path) -> str:
        """Return all of the text so far; a removed file keeps what was read of it."""
        if path.exists():
            with path.open("rb") as file:
                file.seek(len(self._read))
                self._read += file.read()
        return self._read.decode(errors="replace")
