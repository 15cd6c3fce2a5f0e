"""Rows and events on their way to one client: rows a second, CPU per row or event, peak memory.

Run it with `python bench/rows.py`; it takes about two minutes (Linux only). One uvicorn process
serves the same rows in each way, and is asked in turns, so that a busy machine slows all of them;
the ratios are taken round by round. CPU is the server's own, from the kernel. Memory is the most
that the process of a fresh server holds during an export of 5 million rows, over what it held
before its first request (so the import of pyarrow counts).
"""

# ruff: noqa: T201

import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROUNDS = 9
ROWS = 40_000
EVENTS = 10_000
EXPORT_ROWS = 5_000_000
LEAST_RATIO = 10.0
MOST_BYTES = 64 * 2**20

APP = """
import json
from collections.abc import AsyncIterable, AsyncIterator
from datetime import datetime, UTC

import stormproof
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse

app = FastAPI()
stormproof.install(app, prestop=0)


def row(n):
    return {"id": n, "name": f"item {n}", "quantity": n % 100, "price": 9.5, "is_sold": False}


async def one_by_one(n):
    for number in range(n):
        yield row(number)


async def pages(n):
    for first in range(0, n, 500):
        yield [row(number) for number in range(first, first + 500)]


@app.get("/dumps")
async def dumps(n: int) -> StreamingResponse:
    async def lines():
        async for one in one_by_one(n):
            yield json.dumps(one) + "\\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@app.get("/native")
async def native(n: int) -> AsyncIterable[dict]:
    async for one in one_by_one(n):
        yield one


@app.get("/rows")
async def rows(n: int, format: str = "ndjson", by: str = "page") -> stormproof.RowsResponse:
    source = pages(n) if by == "page" else one_by_one(n)
    return stormproof.RowsResponse(source, format=format)


@app.get("/events/native", response_class=EventSourceResponse)
async def native_events(n: int) -> AsyncIterable[dict]:
    async for one in one_by_one(n):
        yield one


@app.get("/events/ours")
async def our_events(n: int) -> stormproof.SSEResponse:
    return stormproof.SSEResponse(one_by_one(n))
"""


class Server:
    """The server under test."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self._pid = process.pid
        self._port = port

    def run(self, path: str, items: int) -> tuple[float, float]:
        """Read one whole answer; return items a second and the server's CPU per item in us."""
        cpu, started_at = self._cpu_ns(), time.perf_counter()
        self.read(f"{path}{'&' if '?' in path else '?'}n={items}")
        took = time.perf_counter() - started_at
        return items / took, (self._cpu_ns() - cpu) / items / 1000

    def read(self, path: str) -> int:
        """Read one whole answer, and return its bytes on the wire."""
        with _connected(self._port) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode())
            total, end = 0, b""
            while received := connection.recv(2**20):
                total += len(received)
                end = (end + received[-8:])[-8:]
                if end.endswith(b"\r\n0\r\n\r\n"):
                    return total
        raise ConnectionError(f"{path} was cut after {total} bytes")

    def peak_bytes(self, path: str) -> int:
        """Return the most that the process held while it answered, over what it held before."""
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")  # begin to measure the peak anew
        before = self._status("VmRSS")
        self.read(path)
        return self._status("VmHWM") - before

    def _status(self, name: str) -> int:
        found = re.search(
            rf"^{name}:\s+(\d+) kB", Path(f"/proc/{self._pid}/status").read_text(), re.M
        )
        assert found is not None
        return int(found[1]) * 1024

    def _cpu_ns(self) -> int:
        tasks = Path(f"/proc/{self._pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def _connected(port: int) -> socket.socket:
    give_up_at = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=60)
        except ConnectionRefusedError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.1)


@contextmanager
def running() -> Iterator[Server]:
    """Run the app under uvicorn in a process of its own until the block ends."""
    with TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        probe.close()
        (Path(folder) / "served.py").write_text(APP)
        command = [sys.executable, "-m", "uvicorn", "served:app", "--port", str(port)]
        process = subprocess.Popen(
            [*command, "--no-access-log", "--log-level", "warning"], cwd=folder
        )
        try:
            _connected(port).close()
            yield Server(process, port)
        finally:
            process.terminate()
            process.wait(timeout=30)


def compare(server: Server, title: str, ways: dict[str, tuple[str, int]]) -> dict[str, float]:
    """Measure each way in turns; print it, and return the ratios to the first one."""
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for round in range(ROUNDS + 1):
        for name, (path, items) in ways.items():
            measured = server.run(path, items)
            if round:  # the first one warms up
                figures[name].append(measured)
    reference = next(iter(figures.values()))
    ratios = {}
    print(f"{title}, {ROUNDS} rounds, median (least to most):")
    for name, taken in figures.items():
        against = [ours[0] / theirs[0] for ours, theirs in zip(taken, reference, strict=True)]
        cpu = [theirs[1] / ours[1] for ours, theirs in zip(taken, reference, strict=True)]
        ratios[name] = statistics.median(against)
        print(
            f"  {name:24} {statistics.median(rate for rate, _ in taken):>9,.0f}/s, "
            f"{statistics.median(us for _, us in taken):6.2f} us CPU; {ratios[name]:5.1f} "
            f"({min(against):.1f} to {max(against):.1f}) times as fast, "
            f"CPU 1/{statistics.median(cpu):.1f}"
        )
    return ratios


def main() -> None:
    """Print rows a second, events a second and the peak of memory, with the bars."""
    with running() as server:
        rows = compare(
            server,
            "Rows",
            {
                "json.dumps a row": ("/dumps", ROWS),
                "FastAPI, yield": ("/native", ROWS // 4),
                "NDJSON, rows by page": ("/rows", ROWS * 10),
                "NDJSON, row by row": ("/rows?by=row", ROWS * 10),
                "CSV, rows by page": ("/rows?format=csv", ROWS * 5),
                "Arrow, rows by page": ("/rows?format=arrow", ROWS * 5),
            },
        )
        ratio = rows["NDJSON, rows by page"]
        print(f"  bar >= {LEAST_RATIO:.0f} times: {'met' if ratio >= LEAST_RATIO else 'MISSED'}")
        compare(
            server,
            "Events to one client",
            {
                "FastAPI, yield": ("/events/native", EVENTS),
                "SSEResponse": ("/events/ours", EVENTS * 4),
            },
        )
        for format in ("ndjson", "csv", "arrow"):
            peak = server.peak_bytes(f"/rows?format={format}&n={EXPORT_ROWS}")
            verdict = "met" if peak <= MOST_BYTES else "MISSED"
            print(
                f"{EXPORT_ROWS:,} rows as {format}: peak {peak / 2**20:.1f} MB over idle; {verdict}"
            )


if __name__ == "__main__":
    main()
