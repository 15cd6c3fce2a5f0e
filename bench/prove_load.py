"""What the load generator sustains: an open loop against a raw server in a child process.

Run it with `python bench/prove_load.py`; it takes about 25 s. The generator is one thread. Each
rate is run several times, in turns, and counts as sustained when the generator itself says that it
was not the bottleneck; on a busy machine it often is, because it has to wait for a core. The CPU
time of a request says what a core of its own would sustain.
"""

# ruff: noqa: T201

import asyncio
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from stormproof.prove.load import Ledger, LoadReport, Shot, open_loop

RUNS = 5
SECONDS = 1.5
RATES = (1000, 3000, 5000)
TARGET = 3000

SERVER = """
import asyncio
ANSWER = (
    b"HTTP/1.1 200 OK\\r\\nserver: bench\\r\\ndate: Mon, 23 Nov 2026 12:00:00 GMT\\r\\n"
    b"content-type: application/json\\r\\ncontent-length: 27\\r\\n\\r\\n"
    b'{"id": 1, "name": "a name"}'
)
class Server(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(ANSWER * data.count(b"\\r\\n\\r\\n"))
async def main():
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@contextmanager
def served() -> Iterator[int]:
    """Run the server in a child process; yields its port."""
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield int(server.stdout.readline())
    finally:
        server.kill()
        server.communicate()


async def run_once(port: int, rate: float) -> tuple[LoadReport, float, float]:
    """Return the report, the 99th percentile of the latencies in ms, and the CPU us a request."""
    ledger = Ledger(time.monotonic())
    shot = Shot(route="GET /", method="GET", url="/")
    cpu = time.process_time()
    report = await open_loop(
        port, [shot], rate=rate, seconds=SECONDS, timeout=2.0, ledger=ledger, group="bench"
    )
    cost = (time.process_time() - cpu) / (rate * SECONDS) * 1e6
    bad = [row for row in ledger.rows if row.ended != "complete"]
    assert len(ledger.rows) == rate * SECONDS
    latencies = sorted(row.latency for row in ledger.rows if row.latency is not None)
    if bad:
        print(
            f"  {rate}/s: {len(bad)} of {len(ledger.rows)} were not complete, e.g. {bad[0].ended}"
        )
    return report, latencies[int(len(latencies) * 0.99)] * 1000, cost


def summary(values: list[float], digits: int) -> str:
    """Return "median (least to most)"."""
    least, middle, most = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


async def main() -> None:
    """Run each rate in turns and print what was sustained."""
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}")
    print(f"{RUNS} runs of {SECONDS} s each, median (least to most):")
    results: dict[int, list[tuple[LoadReport, float, float]]] = {rate: [] for rate in RATES}
    with served() as port:
        await run_once(port, RATES[0])
        for _ in range(RUNS):
            for rate in RATES:
                results[rate].append(await run_once(port, rate))
    for rate, found in results.items():
        sent = summary([report.sent_rate for report, _, _ in found], 0)
        late = summary([report.late_p99 * 1000 for report, _, _ in found], 1)
        latency = summary([latency for _, latency, _ in found], 1)
        cost = summary([cost for _, _, cost in found], 0)
        own = sum(report.is_bottleneck for report, _, _ in found)
        print(f"  {rate}/s: sent {sent}/s, late p99 {late} ms, answer p99 {latency} ms,")
        print(f"      {cost} us of CPU a request, the bottleneck in {own} of {RUNS}")
    held = sum(not report.is_bottleneck for report, _, _ in results[TARGET])
    print(f"  target {TARGET}/s: {'met' if held > RUNS / 2 else 'MISSED'} ({held} of {RUNS} runs)")


if __name__ == "__main__":
    asyncio.run(main())
