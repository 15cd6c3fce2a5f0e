"""What install() costs: CPU per request of a trivial JSON endpoint, with it and without.

Run it with `python bench/install.py`; it takes about a minute. Two uvicorn processes, equal but for
`install()`, are given the same requests in short turns and in both orders, so that a busy machine
slows both; the ratio is taken pair by pair. The CPU time is the server's own, from the kernel
(Linux only). Each answer is awaited from the last connection to the first, so that a server is
not interrupted by its client in the middle of a round.

Where `valgrind` is installed, the instructions per request are counted, too: those of the process
without the kernel's, the same on every run to 0.1 %, on any machine.
"""

# ruff: noqa: T201

import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

PAIRS = 150
REQUESTS = 200
COUNTED = 1_000
CONNECTIONS = 10
TARGET = 0.12
QUIET = ("--no-access-log", "--log-level", "warning")

PLAIN = """
from fastapi import FastAPI
app = FastAPI()

@app.get("/")
async def root() -> dict[str, str]:
    return {"hello": "world"}
"""
INSTALLED = f"{PLAIN}\nimport stormproof\nstormproof.install(app)\n"
REQUEST = b"GET / HTTP/1.1\r\nhost: bench\r\naccept: application/json\r\n\r\n"
BODY = b'{"hello":"world"}'


class Server:
    """One server under test, and the connections to it."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self._pid = process.pid
        self._connections = [_connect(port) for _ in range(CONNECTIONS)]

    def cpu_us(self) -> float:
        """Answer REQUESTS requests; return the server's CPU time per request in microseconds."""
        before = self._cpu_ns()
        self.answer(REQUESTS)
        return (self._cpu_ns() - before) / REQUESTS / 1000

    def answer(self, requests: int) -> None:
        """Answer `requests` requests, one on each connection at a time."""
        for _ in range(requests // CONNECTIONS):
            for connection in self._connections:
                connection.sendall(REQUEST)
            for connection in reversed(self._connections):
                _read_answer(connection)

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()

    def dump(self) -> None:
        """Let callgrind write what it has counted, and count from zero."""
        subprocess.run(["callgrind_control", "-d", str(self._pid)], check=True, capture_output=True)

    def _cpu_ns(self) -> int:
        tasks = Path(f"/proc/{self._pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def _connect(port: int) -> socket.socket:
    give_up_at = time.monotonic() + 120  # under valgrind the start takes 20 s
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.1)


def _read_answer(connection: socket.socket) -> None:
    answer = b""
    while not answer.endswith(BODY):
        received = connection.recv(4096)
        if not received:
            raise ConnectionError("the server closed the connection")
        answer += received


@contextmanager
def running(
    folder: Path, module: str, text: str, *options: str, under: Sequence[str] = ()
) -> Iterator[Server]:
    """Run an app under uvicorn in a process of its own until the block ends."""
    (folder / f"{module}.py").write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [*under, sys.executable, "-m", "uvicorn", f"{module}:app", "--port", str(port)]
    process = subprocess.Popen(
        [*command, *options],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "STORMPROOF_PRESTOP": "0", "PYTHONHASHSEED": "0"},
    )
    try:
        server = Server(process, port)
        try:
            yield server
        finally:
            server.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def summary(values: list[float], digits: int) -> str:
    """Return "median (first quartile to third quartile)"."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def compare(label: str, *options: str) -> None:
    """Measure in turns, and print the costs and the ratio."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        plain = stack.enter_context(running(folder, "plain", PLAIN, *options))
        installed = stack.enter_context(running(folder, "installed", INSTALLED, *options))
        plain.cpu_us()
        installed.cpu_us()
        pairs = []
        for _ in range(PAIRS // 2):
            pairs.append((plain.cpu_us(), installed.cpu_us()))
            ours = installed.cpu_us()
            pairs.append((plain.cpu_us(), ours))
    overheads = [(ours / theirs - 1) * 100 for theirs, ours in pairs]
    overhead = statistics.median(overheads)
    print(f"CPU per request, {label}, {PAIRS} pairs of {REQUESTS} requests, median (quartiles):")
    print(f"  FastAPI          {summary([theirs for theirs, _ in pairs], 1)} us")
    print(f"  with install()   {summary([ours for _, ours in pairs], 1)} us")
    print(f"  overhead         {summary(overheads, 1)} %")
    print(f"  target <= {TARGET:.0%}: {'met' if overhead <= TARGET * 100 else 'MISSED'}")


def instructions(module: str, text: str) -> float:
    """Return the instructions per request of one server, outside the kernel."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        counting = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder / 'counted'}"]
        with running(folder, module, text, *QUIET, under=counting) as server:
            server.answer(COUNTED)
            server.dump()
            server.answer(COUNTED)
            server.dump()
        counted = re.search(r"^totals: (\d+)", (folder / "counted.2").read_text(), re.MULTILINE)
    assert counted is not None
    return int(counted[1]) / COUNTED


def count() -> None:
    """Print the instructions per request, and the ratio."""
    plain, installed = instructions("plain", PLAIN), instructions("installed", INSTALLED)
    print(f"Instructions per request, no access log, {COUNTED} requests, without the kernel's:")
    print(f"  FastAPI          {plain:,.0f}")
    print(f"  with install()   {installed:,.0f}")
    print(f"  overhead         {(installed / plain - 1) * 100:.1f} %")


def main() -> None:
    """Compare without an access log, where the share is largest, and as uvicorn is by default."""
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}")
    compare("no access log", *QUIET)
    compare("uvicorn's defaults")
    if shutil.which("valgrind"):
        count()


if __name__ == "__main__":
    main()
