"""The leak guard: a test that leaves something behind fails, an honest one does not."""

import re
import sys

from tests.harness import ServerProcess

LEAKY = """
import asyncio, pytest, socket, threading, time

kept = []

async def forever():
    await asyncio.Event().wait()

async def test_leaks_task():
    kept.append(asyncio.create_task(forever(), name="lonely"))

def test_leaks_thread():
    wait = threading.Event().wait
    threading.Thread(target=wait, name="stuck", daemon=True).start()

def test_leaks_socket():
    kept.append(socket.socket())

def test_leaks_file(tmp_path):
    kept.append((tmp_path / "leaked.txt").open("w"))

def test_fails_and_leaks():
    kept.append(socket.socket())
    raise AssertionError("only this is reported")

async def test_honest_task():
    task = asyncio.create_task(asyncio.sleep(0))
    await task

@pytest.fixture
async def companion():
    task = asyncio.create_task(forever())
    yield task
    task.cancel()
    await asyncio.wait([task])

async def test_honest_fixture(companion):
    assert not companion.done()

async def test_honest_executor():
    await asyncio.to_thread(time.monotonic)

def test_honest_thread_that_is_about_to_end():
    threading.Thread(target=time.sleep, args=(0.05,)).start()

async def test_honest_socket():
    with socket.socket():
        pass
"""


async def test_a_leak_fails_the_test_and_is_named() -> None:
    options = ["-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]
    command = [sys.executable, "-m", "pytest", *options, "test_leaky.py"]
    async with ServerProcess(command, files={"test_leaky.py": LEAKY}) as run:
        assert await run.wait_exit(timeout=30) == 1
    errors = set(re.findall(r"^ERROR test_leaky.py::test_(\w+)", run.stdout, re.MULTILINE))
    assert errors == {"leaks_task", "leaks_thread", "leaks_socket", "leaks_file"}, run.stdout
    for name in ("task .*lonely", "thread 'stuck'", "socket:", "leaked.txt"):
        assert re.search(name, run.stdout), run.stdout
    assert "1 failed, 9 passed, 4 errors" in run.stdout
