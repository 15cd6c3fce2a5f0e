"""What a hub costs beside a raw server, the seed's generator, sse-starlette and FastAPI's own.

Run it with `python bench/stream.py`, with a hard limit of 11,000 open files or more; it takes
about four minutes. Every server is a process of its own, and so are its clients. All are alive at
once and are asked in turns, so that a busy machine disturbs all alike; ratios are taken round
by round. `python bench/stream.py cpu|memory|stall|stalled-reader|many|left`
runs one part.
"""

# ruff: noqa: T201

import asyncio
import contextlib
import json
import os
import platform
import re
import resource
import socket
import statistics
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvloop

HERE = Path(__file__).parent
ALL = (
    "raw",
    "hub bare",
    "hub mounted",
    "hub route",
    "hub installed",
    "seed",
    "sse-starlette",
    "native",
)
MOST = ("raw", "hub mounted", "hub route", "hub installed")
CLIENTS = 2000
MANY = 10_000
ROUNDS = 25


# The clients: a process of its own ------------------------------------------------------------


class Client(asyncio.Protocol):
    """One subscriber; notes how old each event is when it comes."""

    ages: list[float] = []  # noqa: RUF012 - one process, one list
    opened = 0
    path = b"/events"

    def connection_made(self, transport: Any) -> None:
        """Ask for events."""
        self.is_open = False
        transport.write(b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % self.path)

    def data_received(self, data: bytes) -> None:
        """Note when it came."""
        if not self.is_open:
            assert data.startswith(b"HTTP/1.1 200"), data
            self.is_open = True
            Client.opened += 1
        at = data.find(b"data: ")
        if at >= 0 and data[at + 6 : at + 7].isdigit():
            self.ages.append(time.monotonic() - float(data[at + 6 : data.index(b" ", at + 6)]))


async def be_clients(port: int, number: int) -> None:
    """Connect, then obey: each line of stdin is a number of events to wait for."""
    loop = asyncio.get_running_loop()
    for first in range(0, number, 100):
        await asyncio.gather(
            *(loop.create_connection(Client, "127.0.0.1", port) for _ in range(first, first + 100))
        )
        while Client.opened < first + 100:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    print("open", flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        until = loop.time() + 20
        while len(Client.ages) < int(line) and loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        print(json.dumps(Client.ages), flush=True)
        Client.ages.clear()


class Pinger:
    """One keep-alive connection that asks for /ping; a process of its own."""

    @staticmethod
    def run(port: int, seconds: float) -> None:
        """Print the worst answer time, and the median, in seconds."""
        times = []
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ends_at = time.monotonic() + seconds
            while time.monotonic() < ends_at:
                began = time.monotonic()
                connection.sendall(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n")
                connection.recv(4096)
                times.append(time.monotonic() - began)
                time.sleep(0.003)
        print(json.dumps([max(times), statistics.median(times)]))


# The bench's own end --------------------------------------------------------------------------


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One server process, and the process of its clients."""

    def __init__(self, name: str, command: list[str], port: int) -> None:
        self.name = name
        self.port = port
        self.process = subprocess.Popen(command, cwd=HERE)
        self.clients: subprocess.Popen[str] | None = None
        self._number = 0
        self.path = "/events/" if "mounted" in name else "/events"  # a mount is a folder

    def get(self, path: str) -> str:
        """Ask, and return the body."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return str(answer.read(), "utf-8")

    def connect(self, number: int) -> None:
        """Let so many clients subscribe."""
        self._number = number
        self.clients = subprocess.Popen(
            [sys.executable, __file__, "clients", str(self.port), str(number), self.path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.clients.stdout is not None
        assert self.clients.stdout.readline() == "open\n"

    def round(self) -> tuple[float, list[float]]:
        """Publish one event; return the seconds of CPU, and the age of each delivery."""
        assert self.clients is not None
        assert self.clients.stdin is not None
        assert self.clients.stdout is not None
        before = float(self.get("/cpu"))
        self.clients.stdin.write(f"{self._number}\n")
        self.clients.stdin.flush()
        self.get("/publish")
        ages = json.loads(self.clients.stdout.readline())
        assert len(ages) == self._number, f"{self.name}: {len(ages)} of {self._number} came"
        return float(self.get("/cpu")) - before, ages

    def memory_kb(self) -> float:
        """Return what the process keeps in memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return float(found[1])

    def stop(self) -> None:
        """Kill both processes."""
        for process in (self.clients, self.process):
            if process is not None:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()


@contextlib.contextmanager
def serving(*names: str) -> Iterator[dict[str, Server]]:
    """Start the servers that are named; stop them at the end."""
    servers: dict[str, Server] = {}
    try:
        for name in names:
            port = free_port()
            command = [sys.executable, "stream_servers.py", name, str(port)]
            servers[name] = Server(name, command, port)
        for server in servers.values():
            for _ in range(500):
                with contextlib.suppress(OSError):
                    server.get("/cpu")
                    break
                time.sleep(0.02)
        yield servers
    finally:
        for server in servers.values():
            server.stop()


def quartiles(values: list[float], digits: int = 2) -> str:
    """Return "median (first to third quartile)"."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:8.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def p99(ages: list[float]) -> float:
    """Return the 99th of a hundred."""
    return sorted(ages)[int(len(ages) * 0.99)]


def fan_out(names: tuple[str, ...], number: int, rounds: int) -> None:
    """Print CPU per delivery and p99 of the fan-out, beside the raw server's of the same round."""
    with serving(*names) as servers:
        for server in servers.values():
            server.connect(number)
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for turn in range(-3, rounds):
            order = list(names) if turn % 2 else list(reversed(names))
            for name in order:
                seconds, ages = servers[name].round()
                if turn >= 0:
                    results[name].append((seconds / number * 1e6, p99(ages) * 1e3))
    print(f"one event to {number} subscribers, {rounds} rounds, median (quartiles)")
    print(f"  {'':15}{'CPU us/delivery':26}{'x raw':24}{'p99 ms':26}{'x raw':24}")
    for name in names:
        cells = []
        for which, digits in ((0, 1), (1, 1)):
            own = [result[which] for result in results[name]]
            ratios = [
                mine[which] / raw[which]
                for mine, raw in zip(results[name], results["raw"], strict=True)
            ]
            cells += [quartiles(own, digits), quartiles(ratios)]
        print(f"  {name:15}" + " ".join(f"{cell:24}" for cell in cells))


def memory(names: tuple[str, ...], number: int) -> None:
    """Print what an idle subscriber takes in the server's memory."""
    print(f"memory of an idle subscriber, {number} of them")
    for name in names:
        with serving(name) as servers:
            server = servers[name]
            server.connect(100)  # what the first ones load
            server.clients, first = None, server.clients
            assert first is not None
            before = server.memory_kb()
            server.connect(number)
            time.sleep(1)
            grown = server.memory_kb() - before
            first.kill()
            first.wait()
            for pipe in (first.stdin, first.stdout):
                assert pipe is not None
                pipe.close()
            print(f"  {name:15} {grown / number:6.1f} kB")


def stall(names: tuple[str, ...], number: int, seconds: float = 6.0) -> None:
    """Print how long another endpoint takes at worst, one event a second to all subscribers."""
    print(
        f"another endpoint, {number} subscribers at 1 event/s, in ms: worst of {seconds:g} s, "
        "median"
    )
    with serving(*names) as servers:
        for server in servers.values():
            server.connect(number)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for _ in range(3):
            for name in names:
                server = servers[name]
                command = [sys.executable, __file__, "ping", str(server.port), str(seconds)]
                pinger = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                for _ in range(int(seconds)):
                    server.round()
                    time.sleep(0.9)
                out, _ = pinger.communicate()
                worst, middle = json.loads(out)
                found[name].append((worst * 1e3, middle * 1e3))
        for name, runs in found.items():
            worsts = ", ".join(f"{worst:.0f}" for worst, _ in runs)
            middle = statistics.median(middle for _, middle in runs)
            print(f"  {name:15} worst {worsts:20} median {middle:.2f}")


def stalled_reader() -> None:
    """Print how many bytes a reader who takes nothing costs before the first event is dropped."""
    print("a reader that stalls: bytes published to it before the first event is dropped")
    port = free_port()
    for name, module in (("uvicorn", ["uvicorn"]), ("stormproof serve", ["stormproof", "serve"])):
        command = [sys.executable, "-m", *module, "stream_servers:served", "--port", str(port)]
        server = Server(name, command, port)
        try:
            for _ in range(500):
                with contextlib.suppress(OSError):
                    server.get("/push?size=1")
                    break
                time.sleep(0.02)
            for size in (100, 1000, 8000):
                with socket.create_connection(("127.0.0.1", port)) as stalled:
                    stalled.sendall(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n")
                    stalled.recv(100)
                    before = json.loads(server.get("/push?size=1"))["dropped"]
                    number = 0
                    while json.loads(server.get(f"/push?size={size}"))["dropped"] == before:
                        number += 1
                print(f"  {name:17} events of {size:5} bytes: {number * size / 1024:7.0f} kB")
        finally:
            server.stop()


def left(number: int = 200) -> None:
    """Print how long it takes until a client that closed its connection is no subscriber."""
    left_at = []
    with serving("hub installed") as servers:
        server = servers["hub installed"]
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(number)]
        for client in clients:
            client.sendall(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(4096)
        for turn, client in enumerate(clients):
            if turn % 2:  # a reset instead of an end
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            left_at.append(time.monotonic())
            client.close()
            time.sleep(0.01)
        while len(noticed_at := json.loads(server.get("/left"))) < number:
            time.sleep(0.01)
    waits = [(noticed - own) * 1e3 for own, noticed in zip(left_at, noticed_at, strict=True)]
    print(f"from the close of a connection to the end of its subscriber, {number} clients, in ms")
    print(f"  hub installed   {quartiles(waits)}, worst {max(waits):.2f}")


def main() -> None:
    """Run all parts, or the one that is named."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if sys.argv[1:2] == ["clients"]:
        Client.path = sys.argv[4].encode()
        uvloop.run(be_clients(int(sys.argv[2]), int(sys.argv[3])))
        return
    if sys.argv[1:2] == ["ping"]:
        Pinger.run(int(sys.argv[2]), float(sys.argv[3]))
        return
    parts: dict[str, Callable[[], None]] = {
        "cpu": lambda: fan_out(ALL, CLIENTS, ROUNDS),
        "many": lambda: fan_out(MOST, MANY, 8),
        "memory": lambda: memory(ALL, CLIENTS),
        "stalled-reader": stalled_reader,
        "left": left,
        "stall": lambda: stall(("hub mounted", "hub route", "seed", "native"), CLIENTS),
    }
    print(
        f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}, "
        f"{os.cpu_count()} cores"
    )
    for name, part in parts.items():
        if not sys.argv[1:] or name in sys.argv[1:]:
            part()


if __name__ == "__main__":
    main()
