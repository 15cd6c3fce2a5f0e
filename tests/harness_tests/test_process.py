"""The server process: started, watched, signalled, and gone at the end."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.harness import (
    ServerEnded,
    ServerProcess,
    free_port,
    request,
    serve_app,
    until,
    uvicorn_app,
)

APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})
"""
TALKS_THEN_WAITS = """
import signal, sys, time
def stop(number, frame):
    print("bye", flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, stop)
print("hello", flush=True)
print("oops", file=sys.stderr, flush=True)
time.sleep(60)
"""
HAS_A_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid, flush=True)
time.sleep(60)
"""


def script(source: str) -> list[str]:
    return [sys.executable, "-c", source]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_an_app_runs_under_plain_uvicorn_until_it_is_signalled() -> None:
    port = free_port()
    async with ServerProcess(uvicorn_app("hello:app", port), files={"hello.py": APP}) as server:
        await server.wait_ready(port, path="/")
        answer = await request(port, "GET", "/")
        server.signal(signal.SIGTERM)
        assert await server.wait_exit() in (0, -signal.SIGTERM)
    assert answer.body == b"hello"
    assert "Uvicorn running" in server.output


async def test_lines_of_both_outputs_are_seen_and_the_exit_code_is_told() -> None:
    async with ServerProcess(script(TALKS_THEN_WAITS)) as server:
        assert (await server.wait_for_line("^(he)llo$")).group(1) == "he"
        await server.wait_for_line("oops")
        server.signal(signal.SIGTERM)
        assert await server.wait_exit() == 7
        await server.wait_for_line("^bye$")
        with pytest.raises(ServerEnded, match="exit code 7"):
            server.signal(signal.SIGTERM)
    assert (server.stdout, server.stderr) == ("hello\nbye\n", "oops\n")


async def test_waiting_for_a_line_ends_with_the_process() -> None:
    async with ServerProcess(script("print('over')")) as server:
        with pytest.raises(ServerEnded, match="exit code 0"):
            await server.wait_for_line("never")


async def test_waiting_for_a_line_has_an_end() -> None:
    async with ServerProcess(script(TALKS_THEN_WAITS)) as server:
        with pytest.raises(TimeoutError, match="never"):
            await server.wait_for_line("never", timeout=0.05)


async def test_a_failure_inside_the_block_shows_the_output() -> None:
    with pytest.raises(ZeroDivisionError) as caught:  # noqa: PT012 - the block is the subject
        async with ServerProcess(script(TALKS_THEN_WAITS)) as server:
            await server.wait_for_line("hello")
            raise ZeroDivisionError
    assert "hello\noops\n" in caught.value.__notes__[0]


async def test_the_whole_process_group_is_killed_at_the_end() -> None:
    async with ServerProcess(script(HAS_A_CHILD)) as server:
        child = int((await server.wait_for_line(r"child (\d+)")).group(1))
        assert is_alive(child)
    assert not is_alive(server.pid)
    await until(lambda: not is_alive(child), what="the grandchild to die")


async def test_the_group_is_killed_even_when_its_leader_ended_first() -> None:
    async with ServerProcess(script(HAS_A_CHILD)) as server:
        child = int((await server.wait_for_line(r"child (\d+)")).group(1))
        server.signal(signal.SIGKILL)
        await server.wait_exit()
        assert is_alive(child)
    await until(lambda: not is_alive(child), what="the grandchild to die")


async def test_a_temporary_folder_is_removed_and_a_given_one_is_kept(tmp_path: Path) -> None:
    writes = script("open('kept', 'w').write('x')")
    async with ServerProcess(writes) as first:
        await first.wait_exit()
        assert (first.folder / "kept").exists()
    async with ServerProcess(writes, folder=tmp_path) as second:
        await second.wait_exit()
    assert not first.folder.exists()
    assert (tmp_path / "kept").exists()


async def test_the_process_sees_the_environment_and_can_import_the_tests() -> None:
    source = "import os, tests.harness; print(os.environ['GREETING'], os.environ['PATH'])"
    async with ServerProcess(script(source), env={"GREETING": "moin"}) as server:
        assert await server.wait_exit() == 0
    assert server.stdout == f"moin {os.environ['PATH']}\n"


def test_serve_is_asked_for_by_module() -> None:
    command = serve_app("shop:app", 8001, "--grace", "5")
    expected = "-m stormproof serve shop:app --host 127.0.0.1 --port 8001 --grace 5"
    assert " ".join(command[1:]) == expected
