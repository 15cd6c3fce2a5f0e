"""The leash: a small process between prove and the server, from which nothing runs away.

It is run as a script by path (`python -I -S _leash.py SETUP`), so that neither the app's
environment nor an import of this package reaches it. It starts the server in a session of its
own, adopts what the server leaves behind (a subreaper, so `setsid` and double forks do not help),
reads and drops its output, samples the tree, and reports by lines of JSON on its standard output.
Its standard input is the life line: at `kill`, or at its end because prove is gone, however it
went, the whole tree is killed. A process of its own also keeps exact times: no load on the loop
of prove delays a sample or the moment of an exit.
"""

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

INTERVAL = 0.1
"""Seconds between two samples."""

_OUTPUT_EVERY = 5
"""Samples after which new output is reported."""

_OUTPUT_SIZE = 16_384
"""Bytes of output that are kept; a traceback through a server's own frames takes 6 kB."""

_DRAIN_LIMIT = 1.0
"""Seconds to read the last output in, where a stranger still holds the pipe."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Leash:
    """One server on the leash; `hold` returns when all of it is gone."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self._setup = setup
        self._gone = threading.Event()
        self._has_killed = False
        self._saying = threading.Lock()
        self._output = bytearray()
        self._is_output_new = False

    def hold(self) -> None:
        """Start the server, wait until the last of its processes is gone, and report."""
        is_subreaper = _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        reading, writing = os.pipe()
        try:
            first = self._start(writing)
        except OSError as error:
            self._say("failed", message=f"{error.strerror}: {error.filename or ''}".rstrip(": "))
            return
        finally:
            os.close(writing)
        self._say("started", pid=first)
        reader = threading.Thread(target=self._read, args=(reading,), daemon=True)
        reader.start()
        threading.Thread(target=self._obey, daemon=True).start()
        threading.Thread(target=self._sample, daemon=True).start()
        at = self._reap(first)
        if not is_subreaper:
            at = self._outwait(at)
        self._gone.set()
        reader.join(_DRAIN_LIMIT)
        self._say_output()
        self._say("gone", at=at, killed=self._has_killed)

    def _start(self, output: int) -> int:
        # preexec_fn is safe here: no thread runs yet. Should the leash itself be killed, the
        # kernel kills the server's first process.
        process = subprocess.Popen(
            self._setup["command"],
            cwd=self._setup["directory"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=self._prepare,
        )
        process.returncode = 0  # it is reaped below, with all the others
        return process.pid

    def _prepare(self) -> None:
        """Make the server's process as it would be without prove; it dies with the leash."""
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._setup["descriptors"], hard))

    def _reap(self, first: int) -> float:
        """Wait for all children, those that were adopted too; return when the last one ended."""
        at = time.monotonic()
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                return at
            at = time.monotonic()
            if pid == first:
                self._say("exited", at=at, code=os.waitstatus_to_exitcode(status))

    def _outwait(self, at: float) -> float:
        """Wait for processes that could not be adopted on this system."""
        while any(True for _ in self._family()):
            time.sleep(0.01)
            at = time.monotonic()
        return at

    def _obey(self) -> None:
        """Kill the tree at a word or at the end of the life line."""
        os.read(0, 1)
        while not self._gone.is_set():
            for process in self._family():
                # Noted first: the end may be told before `kill` returns.
                had_killed, self._has_killed = self._has_killed, True
                try:
                    process.kill()
                except Exception:  # it went by itself, or is not ours to kill
                    self._has_killed = had_killed
            self._gone.wait(0.01)

    def _family(self) -> Iterator[Any]:
        """Yield every live process of the server."""
        import psutil  # type: ignore[import-untyped]

        descendants = psutil.Process().children(recursive=True)
        seen = {process.pid for process in descendants} | {os.getpid()}
        if sys.platform != "linux":
            descendants += [
                process
                for process in psutil.process_iter()
                if process.pid not in seen and self._is_marked(process)
            ]
        for process in descendants:
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    def _is_marked(self, process: Any) -> bool:
        name, value = self._setup["marker"]
        with suppress(Exception):
            return bool(process.environ().get(name) == value)
        return False

    def _read(self, reading: int) -> None:
        """Read the output as fast as it comes, and keep its end."""
        while chunk := os.read(reading, 65_536):
            self._output += chunk
            del self._output[:-_OUTPUT_SIZE]
            self._is_output_new = True

    def _sample(self) -> None:
        """Report what the tree uses, every 100 ms."""
        due = time.monotonic()
        count = 0
        while not self._gone.is_set():
            self._say_sample()
            count += 1
            if count % _OUTPUT_EVERY == 0 and self._is_output_new:
                self._say_output()
            due = max(due + INTERVAL, time.monotonic())
            self._gone.wait(due - time.monotonic())

    def _say_sample(self) -> None:
        rss = threads = fds = processes = 0
        spent = os.times()
        cpu = spent.children_user + spent.children_system
        at = time.monotonic()
        for process in self._family():
            with suppress(Exception), process.oneshot():  # it went meanwhile
                times = process.cpu_times()
                fds += process.num_fds()
                rss += process.memory_info().rss
                threads += process.num_threads()
                cpu += sum(times[:4])  # those of children that were reaped too
                processes += 1
        if processes:
            self._say("sample", facts=[at, rss, threads, fds, cpu, processes])

    def _say_output(self) -> None:
        self._is_output_new = False
        self._say("output", text=bytes(self._output).decode(errors="replace"))

    def _say(self, what: str, **facts: Any) -> None:
        line = json.dumps({"what": what, **facts}).encode() + b"\n"
        with self._saying, suppress(OSError):  # prove is gone: nobody listens
            while line:
                line = line[os.write(1, line) :]


def _prctl(option: int, value: int) -> bool:
    """Ask the kernel; returns whether it does so."""
    if sys.platform != "linux":
        return False
    return bool(_LIBC.prctl(option, value, 0, 0, 0) == 0)


_LIBC = ctypes.CDLL(None)

if __name__ == "__main__":
    _setup = json.loads(sys.argv[1])
    sys.path[:] = _setup["path"]
    Leash(_setup).hold()
    os._exit(0)  # threads that wait in a read would hold up a tidy end
