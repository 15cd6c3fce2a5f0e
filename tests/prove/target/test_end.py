"""The end of a server: exact, of the whole tree, and at the end of the context in any case."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.harness import request, until

from .targets import CHILD, LISTEN, SCRIPT, SERVE, left_over, target

pytestmark = pytest.mark.storm

COMMAND = SCRIPT.format(python=sys.executable)

STUBBORN = {
    "ignores-sigterm": "stay()",
    "forked-workers": "[os.fork() or stay() for _ in range(5)]\nstay()",
    "own-session": "if not os.fork():\n    os.setsid()\n    stay()",
    "daemon": """
if not os.fork():
    os.setsid()
    if not os.fork():
        os.closerange(0, 64)
        os.chdir("/")
        stay()
    os._exit(0)
os.wait()
""",
    "daemon-without-environment": """
if not os.fork():
    if not os.fork():
        os.setsid()
        args = ["-c", "import time; time.sleep(600)  # " + os.getcwd()]
        os.execve(sys.executable, [sys.executable, *args], {})
    os._exit(0)
os.wait()
""",
    "forks-on": """
if not os.fork():
    while time.monotonic() < float("inf"):
        if os.fork():
            os._exit(0)
        time.sleep(0.02)
""",
    "stopped": "if not os.fork():\n    os.kill(os.getpid(), signal.SIGSTOP)",
}


def running_in(folder: Path) -> list[str]:
    """Return who carries the folder's mark, or names it on its command line."""
    lines = [" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])]
    return left_over(folder) + [line for line in lines if str(folder) in line]


@pytest.mark.parametrize("source", [pytest.param(s, id=name) for name, s in STUBBORN.items()])
async def test_nothing_is_left_whatever_the_app_has_done(tmp_path: Path, source: str) -> None:
    stubborn = f"if True:\n{_indented(source)}"
    serving = LISTEN + CHILD + "threading.Thread(target=serve, args=[sys.argv[1]]).start()\n"
    async with target(tmp_path, serving + stubborn, command=COMMAND) as running:
        assert left_over(tmp_path)
        port = running.port
    assert running_in(tmp_path) == []
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_sigterm_that_is_ignored_ends_nothing_and_kill_does(tmp_path: Path) -> None:
    source = (
        SERVE
        + "import signal\n"
        + (
            "signal.signal = lambda *_: None\n"  # so that uvicorn does not take it
            "import _signal\n_signal.signal(15, _signal.SIG_IGN)\n"
        )
    )
    async with target(tmp_path, source) as running:
        running.signal(signal.SIGTERM)
        assert await running.ended(0.5) is None
        assert (await request(running.port, "GET", "/")).status == 200
        exit = await running.kill()
        assert exit.is_killed
        assert exit.code is None
        # Its leash tells the end, and then goes itself.
        await until(lambda: left_over(tmp_path) == [])
        assert await running.ended(0.0) == exit


async def test_server_has_not_ended_while_a_worker_it_left_behind_runs(tmp_path: Path) -> None:
    source = (
        LISTEN
        + CHILD
        + """
if not os.fork():
    serve(sys.argv[1])
signal.pause()
"""
    )
    async with target(tmp_path, source, command=COMMAND) as running:
        running.signal()
        await asyncio.wait_for(running.has_first_ended.wait(), 5.0)
        assert await running.ended(0.3) is None
        assert (await request(running.port, "GET", "/")).status == 204
        running.signal()  # to nobody: the first process has gone
        exit = await running.kill()
        assert exit.is_killed


async def test_exit_is_when_the_last_process_has_gone(tmp_path: Path) -> None:
    """A worker that outlives its parent by half a second, by its own word."""
    source = (
        LISTEN
        + CHILD
        + """
if not os.fork():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = os.getppid()
    threading.Thread(target=serve, args=[sys.argv[1]], daemon=True).start()
    while os.getppid() == parent:
        time.sleep(0.01)
    time.sleep(0.5)
    print("gone at", time.monotonic(), flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
while True:
    signal.pause()
"""
    )
    zero = time.monotonic()
    async with target(tmp_path, source, zero=zero, command=COMMAND) as running:
        running.signal()
        exit = await running.ended(5.0)
    assert exit is not None
    assert (exit.code, exit.is_killed) == (7, False)
    said = float(exit.tail.rpartition("gone at ")[2]) - zero
    assert 0 <= exit.at - said < 0.25


async def test_time_of_an_exit_is_exact_while_the_loop_of_prove_is_blocked(tmp_path: Path) -> None:
    source = (
        LISTEN
        + """
def end(*_):
    print("gone at", time.monotonic(), flush=True)
    os._exit(3)
signal.signal(signal.SIGTERM, end)
threading.Thread(target=serve, args=[sys.argv[1]], daemon=True).start()
while True:
    signal.pause()
"""
    )
    zero = time.monotonic()
    async with target(tmp_path, source, zero=zero, command=COMMAND) as running:
        running.signal()
        time.sleep(0.5)  # blocks the loop
        exit = await running.ended(5.0)
    assert exit is not None
    said = float(exit.tail.rpartition("gone at ")[2]) - zero
    assert 0 <= exit.at - said < 0.25


async def test_signal_reaches_the_first_process_alone(tmp_path: Path) -> None:
    source = (
        LISTEN
        + """
if not os.fork():
    signal.signal(signal.SIGTERM, lambda *_: print("worker was told", flush=True))
    while True:
        time.sleep(1)
signal.signal(signal.SIGTERM, lambda *_: print("parent was told", flush=True))
serve(sys.argv[1])
"""
    )
    async with target(tmp_path, source, command=COMMAND) as running:
        running.signal()
        await until(lambda: "parent was told" in running.tail)
        assert "worker was told" not in running.tail


async def test_waiting_for_the_end_may_be_cancelled(tmp_path: Path) -> None:
    async with target(tmp_path, SERVE) as running:
        waiting = asyncio.create_task(running.ended(60.0))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        running.signal()
        assert await running.ended(10.0) is not None


async def test_cancelled_while_it_closes_nothing_is_left(tmp_path: Path) -> None:
    source = LISTEN + CHILD + "[os.fork() or stay() for _ in range(3)]\nserve(sys.argv[1])"
    is_open = asyncio.Event()

    async def hold() -> None:
        async with target(tmp_path, source, command=COMMAND):
            is_open.set()
            await asyncio.Event().wait()

    holding = asyncio.create_task(hold())
    await is_open.wait()
    while not holding.done():  # at every step of its end
        holding.cancel()
        await asyncio.sleep(0)
    assert holding.cancelled()
    assert left_over(tmp_path) == []


async def test_leash_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    daemon = _indented(STUBBORN["daemon"].replace("os.closerange(0, 64)\n", "\n"))
    source = LISTEN + CHILD + f"if True:\n{daemon}\nserve(sys.argv[1])"
    async with target(tmp_path, source, command=COMMAND) as running:
        os.kill(running.leash_pid, signal.SIGKILL)
        exit = await running.ended(5.0)
        assert exit is not None
        assert exit.is_killed
        await until(lambda: not left_over(tmp_path), 5.0)


def _indented(source: str) -> str:
    return "".join(f"    {line}\n" for line in source.strip("\n").splitlines())
