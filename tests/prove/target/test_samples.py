"""Samples and output: of the whole tree, even and bounded, whatever the loop of prove does."""

import asyncio
import sys
import time
from pathlib import Path

import psutil

from tests.harness import request, until

from .targets import LISTEN, SCRIPT, SERVE, target

COMMAND = SCRIPT.format(python=sys.executable)

MEGABYTES = 64


async def test_samples_come_every_100_ms_while_the_loop_is_blocked(tmp_path: Path) -> None:
    zero = time.monotonic()
    async with target(tmp_path, SERVE, zero=zero) as running:
        begun = time.monotonic() - zero
        time.sleep(1.5)  # blocks the loop
        await asyncio.sleep(0.2)
        taken = [sample.at for sample in running.samples if begun <= sample.at <= begun + 1.5]
        # 15 where the machine has time, fewer where it is busy; the loop itself would take 1.
        assert 5 <= len(taken) <= 16
        assert running.samples[-1].at < time.monotonic() - zero


async def test_samples_count_workers_their_threads_descriptors_and_memory(tmp_path: Path) -> None:
    source = (
        LISTEN
        + """
def work():
    hold = [open(os.devnull) for _ in range(40)]
    size = bytearray(b"x" * 60_000_000)
    for _ in range(7):
        threading.Thread(target=time.sleep, args=[600], daemon=True).start()
    time.sleep(600)

serving = threading.Thread(target=serve, args=[sys.argv[1]], daemon=True)
for _ in range(2):
    os.fork() or work()
serving.start()
serving.join()
"""
    )
    async with target(tmp_path, source, command=COMMAND) as running:
        await until(lambda: running.samples and running.samples[-1].threads >= 18, 10.0)
        sample = running.samples[-1]
        assert sample.processes == 3
        assert sample.fds >= 80
        assert sample.rss_bytes >= 120_000_000


async def test_cpu_time_of_workers_that_have_ended_is_kept(tmp_path: Path) -> None:
    source = (
        LISTEN
        + """
def burn():
    while time.process_time() < 0.3:
        pass
    os._exit(0)

for _ in range(2):
    os.fork() or burn()
for _ in range(2):
    os.wait()
serve(sys.argv[1])
"""
    )
    async with target(tmp_path, source, command=COMMAND) as running:
        await until(lambda: running.samples and running.samples[-1].processes == 1)
        await asyncio.sleep(0.3)
        spent = [sample.cpu_seconds for sample in running.samples]
        assert spent[-1] >= 0.6
        assert spent == sorted(spent)


async def test_megabytes_of_output_are_dropped_and_hold_nobody_up(tmp_path: Path) -> None:
    source = (
        SERVE
        + f"""
import os, sys, time
line = b"x" * 1023 + b"\\n"
for _ in range({MEGABYTES}):
    os.write(2, line * 512)
    os.write(1, line * 512)
print("all of it is written", flush=True)
"""
    )
    async with target(tmp_path, source) as running:
        await until(lambda: "all of it is written" in running.tail)
        assert len(running.tail) <= 4096
        assert psutil.Process(running.leash_pid).memory_info().rss < 40_000_000
        assert (await request(running.port, "GET", "/")).status == 200


async def test_output_is_read_while_the_loop_of_prove_is_blocked(tmp_path: Path) -> None:
    source = (
        SERVE
        + """
import os, threading, time

def shout():
    begun = time.monotonic()
    for _ in range(8):
        os.write(1, b"y" * 1_000_000)
    print("took", time.monotonic() - begun, "s", flush=True)
"""
    )
    source = source.replace(
        'await send({"type": "http.response.start"',
        ('threading.Thread(target=shout).start()\n    await send({"type": "http.response.start"'),
    )
    async with target(tmp_path, source) as running:
        time.sleep(3.0)  # blocks the loop: only the leash reads meanwhile
        await until(lambda: "took" in running.tail)
        assert float(running.tail.rpartition("took ")[2].split()[0]) < 2.5


async def test_tail_holds_no_password(tmp_path: Path) -> None:
    source = SERVE + "print('connected to postgresql://me:hunter2@127.0.0.1/db', flush=True)"
    async with target(tmp_path, source) as running:
        await until(lambda: "connected to" in running.tail)
        assert "hunter2" not in running.tail
        exit = await running.kill()
    assert "postgresql://***@127.0.0.1/db" in exit.tail


async def test_bytes_that_are_no_text_are_taken_too(tmp_path: Path) -> None:
    source = SERVE + "import os\nos.write(1, bytes(range(256)) + b'\\nend\\n')"
    async with target(tmp_path, source) as running:
        await until(lambda: "end\n" in running.tail)
