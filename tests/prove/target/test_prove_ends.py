"""When prove itself is interrupted or killed, at any moment, its server goes with it."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.harness import until

from .targets import CHILD, LISTEN, MARK, left_over, nothing_left

pytestmark = pytest.mark.storm

REPOSITORY = Path(__file__).parents[3]

PROVE = """
import asyncio, signal, sys, time
from pathlib import Path
# A shell that runs the tests in the background has SIGINT ignored in all it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
from stormproof.prove import ProveOptions
from stormproof.prove.target import started

async def main():
    command = sys.executable + " server.py {port}"
    options = ProveOptions(server="command", command=command)
    async with started(options, zero=time.monotonic(), environment={}):
        print("ready", flush=True)
        await asyncio.Event().wait()

print("begun", flush=True)
asyncio.run(main())
"""

SERVER = (
    LISTEN
    + CHILD
    + """
def told(*_):
    Path("told").touch()

from pathlib import Path
signal.signal(signal.SIGINT, told)
[os.fork() or stay() for _ in range(2)]
if not os.fork():
    os.setsid()
    if not os.fork():
        stay()
    os._exit(0)
serve(sys.argv[1])
"""
)


@asynccontextmanager
async def proving(folder: Path) -> AsyncIterator["subprocess.Popen[bytes]"]:
    (folder / "server.py").write_text(textwrap.dedent(SERVER))
    (folder / "prove.py").write_text(PROVE)
    process = subprocess.Popen(
        [sys.executable, "prove.py"],
        cwd=folder,
        env={**os.environ, MARK: str(folder), "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        with process.stdout:
            yield process
    finally:
        process.kill()
        process.wait()
    await nothing_left(folder)


def line(process: "subprocess.Popen[bytes]") -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_nothing_outlives_a_prove_that_was_ended(tmp_path: Path, number: int) -> None:
    async with proving(tmp_path) as process:
        assert (line(process), line(process)) == (b"begun\n", b"ready\n")
        assert len(left_over(tmp_path)) >= 5
        os.killpg(process.pid, number)
        await until(lambda: process.poll() is not None, 10.0)
        await nothing_left(tmp_path)


@pytest.mark.parametrize("after", [0.0, 0.02, 0.05, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
async def test_nothing_outlives_it_while_it_starts(
    tmp_path: Path, number: int, after: float
) -> None:
    async with proving(tmp_path) as process:
        assert line(process) == b"begun\n"
        await asyncio.sleep(after)
        os.killpg(process.pid, number)
        await until(lambda: process.poll() is not None, 10.0)
        await nothing_left(tmp_path)


async def test_ctrl_c_is_not_for_the_server(tmp_path: Path) -> None:
    """The terminal sends it to the whole foreground group; a drain would begin in mid-attack."""
    async with proving(tmp_path) as process:
        assert (line(process), line(process)) == (b"begun\n", b"ready\n")
        os.killpg(process.pid, signal.SIGINT)
        await until(lambda: process.poll() is not None, 10.0)
    assert not (tmp_path / "told").exists()


async def test_second_ctrl_c_while_it_ends_leaves_nothing(tmp_path: Path) -> None:
    async with proving(tmp_path) as process:
        assert (line(process), line(process)) == (b"begun\n", b"ready\n")
        while process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            await asyncio.sleep(0.002)
        await nothing_left(tmp_path)
