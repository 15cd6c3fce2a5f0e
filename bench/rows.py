"""Rows and events on their way to one client: rows a second, CPU per row or event, peak memory.

Run it with `python bench/rows.py`; it takes about two minutes (Linux only). One uvicorn process
serves the same rows in each way, and is asked in turns, so that a busy machine slows all of them;
the ratios are taken round by round. CPU is the server's own, from the kernel. Memory is the most
that the process of a fresh server holds during an export of 5 million rows, over what it held
before its first request (so the import of pyarrow counts).
"""

# ruff: noqa: T201

import json
import re
import socket
import statistics
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROUNDS = 9
ROWS = 40_000
EVENTS = 10_000
EXPORT_ROWS = 5_000_000
LEAVINGS = 30
LEAST_RATIO = 10.0
MOST_MS = 50
MOST_BYTES = 64 * 2**20

APP = """
import asyncio
import json
import time
from collections.abc import AsyncIterable, AsyncIterator
from datetime import datetime, UTC

import stormproof
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse

app = FastAPI()
upstream = stormproof.Upstream()
stormproof.install(app, upstream, prestop=0)


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


closed_at = []


async def silent():
    try:
        yield "1"
        await asyncio.Event().wait()
    finally:
        closed_at.append(time.monotonic())


@app.get("/model")
async def model() -> stormproof.SSEResponse:
    return stormproof.SSEResponse(silent())


@app.get("/tokens")
async def tokens(port: int) -> stormproof.SSEResponse:
    async def through():
        url = f"http://127.0.0.1:{port}/model"
        async with upstream.client.stream("GET", url, timeout=None) as answer:
            async for line in answer.aiter_lines():
                yield line

    return stormproof.SSEResponse(through(), on_drain="finish")


@app.get("/closed")
async def closed() -> list[float]:
    return closed_at


@app.get("/events/hand")
async def events_by_hand(n: int) -> StreamingResponse:
    async def events():
        async for one in one_by_one(n):
            yield f"data: {json.dumps(one)}\\n\\n"

    return StreamingResponse(events(), media_type="text/event-stream")


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

    def seconds_to_close(self, path: str) -> float:
        """Leave a stream abruptly; return the time until its innermost source was closed."""
        before = len(self._closed())
        with _connected(self._port) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode())
            while b"data: " not in connection.recv(4096):
                pass
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            left_at = time.monotonic()
        while len(times := self._closed()) == before:
            time.sleep(0.005)
        return times[-1] - left_at

    def tokens_path(self) -> str:
        """Return the path of a stream whose source is another one, over the network."""
        return f"/tokens?port={self._port}"

    def _closed(self) -> list[float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/closed") as answer:
            times: list[float] = json.load(answer)
        return times

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


def measure_leaving(server: Server) -> None:
    """Print how soon a source is closed when its client leaves."""
    for name, path in (("source", "/model"), ("upstream's source", server.tokens_path())):
        took = [server.seconds_to_close(path) * 1000 for _ in range(LEAVINGS)]
        verdict = "met" if max(took) <= MOST_MS else "MISSED"
        print(
            f"A client leaves, the {name} is closed after: median "
            f"{statistics.median(took):.1f} ms, most {max(took):.1f} ms of {LEAVINGS} times; "
            f"bar <= {MOST_MS} ms: {verdict}"
        )


def measure_memory() -> None:
    """Print the peak of memory of an export in each format."""
    for format in ("ndjson", "csv", "arrow"):
        with running() as server:
            peak = server.peak_bytes(f"/rows?format={format}&n={EXPORT_ROWS}")
        verdict = "met" if peak <= MOST_BYTES else "MISSED"
        print(
            f"{EXPORT_ROWS:,} rows as {format}: peak {peak / 2**20:.1f} MB over idle; "
            f"bar <= {MOST_BYTES / 2**20:.0f} MB: {verdict}"
        )


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
                "StreamingResponse": ("/events/hand", EVENTS * 4),
                "SSEResponse": ("/events/ours", EVENTS * 4),
            },
        )
        measure_leaving(server)
    measure_memory()


if __name__ == "__main__":
    main()
