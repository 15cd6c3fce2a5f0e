"""A server that starts is ready; one that does not says why in one sentence, and is gone."""

import asyncio
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stormproof.errors import CouldNotProve, InvalidSetting
from tests.harness import request, until

from .targets import LISTEN, SCRIPT, SERVE, left_over, target

pytestmark = pytest.mark.storm

COMMAND = SCRIPT.format(python=sys.executable)


@pytest.mark.parametrize("server", ["uvicorn", "serve", "hypercorn", "granian", "gunicorn"])
async def test_each_server_is_ready_when_it_answers_and_ends_at_sigterm(
    tmp_path: Path, server: str
) -> None:
    source = "from fastapi import FastAPI\napp = FastAPI()" if server == "serve" else SERVE
    async with target(tmp_path, source, server=server) as running:
        answer = await request(running.port, "GET", "/")
        assert answer.status == (404 if server == "serve" else 200)
        running.signal()
        exit = await running.ended(20.0)
        assert exit is not None
        assert not exit.is_killed
        assert exit.code == (-15 if server == "uvicorn" else 0)
    assert left_over(tmp_path) == []


async def test_command_is_told_its_port(tmp_path: Path) -> None:
    async with target(tmp_path, LISTEN + "serve(sys.argv[1])", command=COMMAND) as running:
        assert (await request(running.port, "GET", "/")).status == 204
    assert left_over(tmp_path) == []


async def test_app_is_started_in_its_directory_which_is_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("import os\nfolder = os.getcwd()")
    source = SERVE + "import beside\nprint('in', beside.folder, flush=True)"
    async with target(tmp_path, source) as running:
        await until(lambda: f"in {tmp_path}\n" in running.tail)


async def test_app_has_the_descriptors_it_would_have_without_prove(tmp_path: Path) -> None:
    """A load raises the limit for its own sockets; an app that runs out must be seen to."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    other = before[0] - 1 if before[0] == before[1] else before[0] + 1
    source = SERVE + (
        "import resource\n"
        "print('may open', resource.getrlimit(resource.RLIMIT_NOFILE)[0], flush=True)"
    )
    resource.setrlimit(resource.RLIMIT_NOFILE, (other, before[1]))
    try:
        async with target(tmp_path, source) as running:
            await until(lambda: "may open" in running.tail)
            assert f"may open {before[0]}\n" in running.tail
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


BROKEN = {
    "raises": ("raise RuntimeError('no DSN')", "RuntimeError: no DSN (main.py:1)"),
    "raises-in-a-library": ("import json\n\napp = json.loads('{')", "(main.py:3) (exit code 1)"),
    "missing-import": ("import nowhere", "No module named 'nowhere' (main.py:1)"),
    "syntax": ("def app(:\n    pass", "SyntaxError: invalid syntax (main.py:1)"),
    "no-app": ("application = 1", 'Attribute "app" not found in module "main"'),
    "two-lines": ("raise RuntimeError('one\\ntwo')", "RuntimeError: one (main.py:1)"),
    "from-another": (
        "try:\n    {}['a']\nexcept KeyError as error:\n    raise OSError('b') from error",
        "OSError: b (main.py:4)",
    ),
    "group": (
        "raise ExceptionGroup('both', [ValueError('one')])",
        "ExceptionGroup: both (1 sub-exception) (main.py:1)",
    ),
    "password": (
        "raise OSError('cannot reach postgresql://me:hunter2@db/x')",
        "OSError: cannot reach postgresql://***@db/x (main.py:1)",
    ),
    "exits-with-0": (
        "import os\nos._exit(0)",
        "exit code 0 before it answered, and printed nothing",
    ),
    "killed": ("import os\nos.kill(os.getpid(), 9)", "ended with signal 9 before it answered"),
    "in-its-lifespan": (
        """
        from contextlib import asynccontextmanager
        from fastapi import FastAPI
        @asynccontextmanager
        async def lifespan(app):
            raise ConnectionRefusedError("the cache is away")
            yield
        app = FastAPI(lifespan=lifespan)
        """,
        "ConnectionRefusedError: the cache is away (main.py:6) (exit code 3)",
    ),
}


@pytest.mark.parametrize(
    ("source", "words"), [pytest.param(*case, id=name) for name, case in BROKEN.items()]
)
async def test_app_that_cannot_start_is_told_by_its_own_last_word(
    tmp_path: Path, source: str, words: str
) -> None:
    with pytest.raises(CouldNotProve) as failed:
        async with target(tmp_path, source):
            pass
    assert words in str(failed.value)
    assert "\n" not in str(failed.value)
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("server", ["serve", "hypercorn", "granian", "gunicorn"])
async def test_reason_is_found_in_the_output_of_each_server(tmp_path: Path, server: str) -> None:
    with pytest.raises(CouldNotProve, match=r"RuntimeError: no DSN .*main\.py:1"):
        async with target(tmp_path, "raise RuntimeError('no DSN')", server=server):
            pass
    assert left_over(tmp_path) == []


async def test_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CouldNotProve, match='Could not import module "nobody"'):
        async with target(tmp_path, "", app="nobody:app"):
            pass


async def test_server_that_never_answers_is_given_up_with_its_last_output(tmp_path: Path) -> None:
    source = "import time\nprint('waiting for the database', flush=True)\ntime.sleep(600)"
    with pytest.raises(CouldNotProve, match=r"within 2 s; its last output: waiting for the data"):
        async with target(tmp_path, source, start_limit=2.0):
            pass
    assert left_over(tmp_path) == []


async def test_server_that_accepts_and_is_silent_is_given_up(tmp_path: Path) -> None:
    source = """
    import socket, sys, time
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    time.sleep(600)
    """
    with pytest.raises(CouldNotProve, match="did not answer on port"):
        async with target(tmp_path, source, command=COMMAND, start_limit=2.0):
            pass
    assert left_over(tmp_path) == []


async def test_server_on_another_port_is_told_where_it_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        other = chosen.getsockname()[1]
    with pytest.raises(CouldNotProve, match=f"it listens on {other} instead"):
        async with target(tmp_path, LISTEN + f"serve({other})", command=COMMAND, start_limit=2.0):
            pass
    assert left_over(tmp_path) == []


async def test_server_that_goes_to_the_background_is_refused_and_gone(tmp_path: Path) -> None:
    source = (
        LISTEN
        + """
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
time.sleep(5)
"""
    )
    with pytest.raises(CouldNotProve, match="went to the background"):
        async with target(tmp_path, source, command=COMMAND):
            pass
    assert left_over(tmp_path) == []


STOLEN = (
    LISTEN
    + """
import socket
with socket.create_connection(("127.0.0.1", {thief})) as ask:
    ask.sendall(sys.argv[1].encode() + b" ")
    ask.recv(1)
serve(sys.argv[1])
"""
)


@contextmanager
def thief(most: int) -> Iterator[tuple[int, list[int]]]:
    """Listen on the first `most` ports that are named to it, before it answers."""
    stolen: list[socket.socket] = []
    ports: list[int] = []

    def steal(listener: socket.socket) -> None:
        while True:
            try:
                asking, _ = listener.accept()
            except OSError:
                return
            with asking:
                ports.append(int(asking.recv(16)))
                if len(stolen) < most:
                    stolen.append(socket.create_server(("127.0.0.1", ports[-1])))
                asking.sendall(b"!")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=steal, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1], ports
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for one in stolen:
                one.close()


async def test_port_that_another_process_takes_meanwhile_is_given_up_for_another(
    tmp_path: Path,
) -> None:
    with thief(2) as (port, ports):
        async with target(
            tmp_path, STOLEN.replace("{thief}", str(port)), command=COMMAND
        ) as running:
            assert len(ports) == 3
            assert running.port == ports[-1]
            assert (await request(running.port, "GET", "/")).status == 204
    assert left_over(tmp_path) == []


async def test_three_taken_ports_are_one_sentence(tmp_path: Path) -> None:
    with thief(3) as (port, _), pytest.raises(CouldNotProve, match="took 3 ports"):
        async with target(tmp_path, STOLEN.replace("{thief}", str(port)), command=COMMAND):
            pass
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("missing", ["granian", "uvicorn_worker"])
async def test_server_that_is_not_installed_is_named_with_its_package(
    tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # as the import system marks it
    server = "granian" if missing == "granian" else "gunicorn"
    with pytest.raises(CouldNotProve, match=f"pip install {missing.replace('_', '-')}, or choose"):
        async with target(tmp_path, SERVE, server=server):
            pass


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"app": "main"}, InvalidSetting, "give module:app"),
        ({"command": "python server.py"}, InvalidSetting, "no {port} in it"),
        ({"command": "sh -c 'oh {port}"}, InvalidSetting, "cannot be read"),
        ({"command": "no-such-program {port}"}, CouldNotProve, "no-such-program cannot be run"),
        ({"directory": Path("nowhere")}, CouldNotProve, "no directory 'nowhere'"),
    ],
)
async def test_wrong_use_is_told_before_anything_runs(
    tmp_path: Path, options: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as failed:
        async with target(tmp_path, "", **options):
            pass
    assert words in str(failed.value)


@pytest.mark.parametrize("after", [0.0, 0.01, 0.03, 0.1, 0.3, 0.6])
async def test_start_that_is_cancelled_leaves_nothing(tmp_path: Path, after: float) -> None:
    """At each step of it: before the leash runs, before the server does, before it answers."""

    async def start() -> None:
        async with target(tmp_path, "import time\ntime.sleep(600)"):
            pass

    starting = asyncio.create_task(start())
    await asyncio.sleep(after)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert left_over(tmp_path) == []


async def test_crash_is_told_at_once_and_not_at_the_limit(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(CouldNotProve):
        async with target(tmp_path, "raise SystemExit(1)", start_limit=60.0):
            pass
    assert time.monotonic() - begun < 30.0
