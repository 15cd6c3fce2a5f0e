"""The injection: it reaches every process that serves, and leaves all others and the app alone."""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from signal import Signals

import pytest

from stormproof.prove.link import AgentLink
from tests.harness import ServerProcess, free_port, serve_app, until

from .stage import Command, Stage, plain_uvicorn, proven

pytestmark = pytest.mark.storm

APP = """
import asyncio
import os
import socket
import sys
import time
from fastapi import FastAPI

app = FastAPI()

@app.get("/modules")
async def modules():
    return [name for name in sys.modules if name.split(".")[0] == "stormproof"]

@app.get("/customized")
async def customized():
    import sitecustomize
    return [os.environ.get("CUSTOMIZED"), sitecustomize.__file__]

@app.get("/ok")
async def ok():
    return {"pid": os.getpid()}

@app.get("/block")
async def block():
    time.sleep(0.3)
    return 1

@app.get("/fork")
async def fork():
    child = os.fork()
    if child == 0:
        time.sleep(0.3)
        os._exit(0)
    return os.waitpid(child, 0)[1]

@app.get("/exec")
async def exec_():
    os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(0.5); print('alive')"])

@app.get("/flood/{count}")
async def flood(count: int):
    closed = int(os.environ["CLOSED"])
    for number in range(count):
        with socket.socket() as client:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", closed))
    return 1
"""


def workers(app: str, port: int) -> Sequence[str]:
    return plain_uvicorn(app, port, "--workers", "2")


def served(app: str, port: int) -> Sequence[str]:
    return serve_app(app, port, "--prestop", "0", "--grace", "3")


def hypercorn(app: str, port: int) -> Sequence[str]:
    return [sys.executable, "-m", "hypercorn", app, "--bind", f"127.0.0.1:{port}"]


def granian(app: str, port: int) -> Sequence[str]:
    program = str(Path(sys.executable).parent / "granian")
    return [program, "--interface", "asgi", app, "--host", "127.0.0.1", "--port", str(port)]


def gunicorn(app: str, port: int) -> Sequence[str]:
    command = [sys.executable, "-m", "gunicorn", app, "-k", "uvicorn_worker.UvicornWorker"]
    return [*command, "--workers", "1", "--bind", f"127.0.0.1:{port}", "--no-control-socket"]


def preloaded(app: str, port: int) -> Sequence[str]:
    return [*gunicorn(app, port), "--preload"]


@pytest.mark.parametrize(
    "command", [workers, served, hypercorn, granian, gunicorn, preloaded], ids=lambda c: c.__name__
)
async def test_under_every_server_requests_stalls_and_the_end_are_told(
    command: Command, tmp_path: Path
) -> None:
    async with proven(APP, tmp_path, command=command) as stage:
        await stage.ask("GET", "/block", 1)
        (stall,) = await stage.hears("stall")
        (request,) = await stage.hears("request", id=1)
        assert stall.facts["route"] == request.facts["route"] == "GET /block"
        assert stall.facts["id"] == 1
        assert stall.pid == request.pid
        assert stall.pid in stage.link.pids
        stage.process.signal(Signals.SIGTERM)
        await stage.process.wait_exit()
        await stage.hears("lifespan", phase="stopped")


async def test_a_worker_that_comes_later_connects_on_its_own(tmp_path: Path) -> None:
    async with proven(APP, tmp_path, command=workers) as stage:
        await stage.hears("ready", 2)
        assert len(stage.link.pids) == 2
        census = await stage.link.census()
        assert census["processes"] == 2
        os.kill(min(stage.link.pids), Signals.SIGKILL)
        await stage.hears("ready", 3)
        await until(lambda: len(stage.link.pids) == 2)


async def test_the_app_imports_no_part_of_stormproof(tmp_path: Path) -> None:
    async with proven(APP, tmp_path) as stage:
        assert (await stage.ask("GET", "/modules")).body == b"[]"


async def test_a_sitecustomize_of_the_apps_own_runs_and_is_the_one_to_import(
    tmp_path: Path,
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import os\nos.environ['CUSTOMIZED'] = 'yes'\n")
    async with proven(APP, tmp_path, path=str(own)) as stage:
        answer = await stage.ask("GET", "/customized")
        assert answer.body.decode() == f'["yes","{own}/sitecustomize.py"]'


async def test_a_process_without_a_web_app_is_left_alone() -> None:
    asked = "import sys, threading, json; "
    asked += "print([m for m in sys.modules if 'stormproof' in m], threading.active_count())"
    async with AgentLink.listening(0.0) as link:
        environment = {**os.environ, **link.environment}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", asked, env=environment, stdout=-1, stderr=-1
        )
        said, complained = await process.communicate()
        assert not link.pids
        assert not link.events
    parts = ["_stormproof_agent", "_stormproof_agent._imports", "_stormproof_agent._start"]
    assert complained == b""
    assert all(part in said.decode() for part in parts)
    assert "_install" not in said.decode()
    assert said.decode().endswith("] 1\n")


async def test_without_prove_the_app_runs_with_one_line_of_complaint(tmp_path: Path) -> None:
    async with AgentLink.listening(0.0) as link:
        environment = dict(link.environment)
        folder = environment["PYTHONPATH"].partition(os.pathsep)[0]
        text = Path(folder, "sitecustomize.py").read_text()
    late = tmp_path / "late"
    late.mkdir()
    (late / "sitecustomize.py").write_text(text.replace(folder, str(late)))
    environment["PYTHONPATH"] = os.pathsep.join([str(late), str(tmp_path)])
    await _runs(tmp_path, environment, "cannot reach prove")


async def test_an_agent_that_does_not_know_a_library_leaves_the_app_alone(tmp_path: Path) -> None:
    (tmp_path / "sqlalchemy").mkdir()
    (tmp_path / "sqlalchemy" / "__init__.py").write_text("answer = 42\n")
    async with proven("import sqlalchemy\n" + APP, tmp_path) as stage:
        assert (await stage.ask("GET", "/ok", 1)).status == 200
        await stage.hears("request", id=1)
        assert stage.process.stderr.count("stormproof prove: no agent for sqlalchemy") == 1


async def test_the_app_serves_on_when_prove_goes_away(tmp_path: Path) -> None:
    async with proven(APP, tmp_path) as stage:
        await stage.ask("GET", "/block", 1)
        await stage.link._close()
        for _ in range(20):
            assert (await stage.ask("GET", "/ok", 1)).status == 200
        await stage.ask("GET", "/block", 1)
        assert stage.process.stderr == ""


async def test_a_child_of_the_app_tells_nothing_and_takes_nothing_from_it(tmp_path: Path) -> None:
    async with proven(APP, tmp_path) as stage:
        assert (await stage.ask("GET", "/fork", 1)).body == b"0"
        await stage.ask("GET", "/ok", 2)
        await stage.hears("request", id=2)
        assert {event.pid for event in stage.link.events} == {stage.process.pid}
        assert len(stage.told("request", id=1)) == 1


async def test_a_process_that_replaces_itself_is_not_killed_by_our_timer(tmp_path: Path) -> None:
    async with proven(APP, tmp_path) as stage:
        await stage.ask("GET", "/exec", 1)
        await stage.process.wait_for_line("^alive$")
        assert await stage.process.wait_exit() == 0


async def test_events_beyond_the_buffer_are_dropped_and_counted_and_nothing_waits(
    tmp_path: Path,
) -> None:
    async with proven(APP, tmp_path, env={"CLOSED": str(free_port())}) as stage:
        (peer,) = stage.link._peers
        transport = peer._reader._transport  # type: ignore[attr-defined]
        transport.pause_reading()
        assert (await stage.ask("GET", "/flood/40000", 1, timeout=60)).status == 200
        transport.resume_reading()
        (request,) = await stage.hears("request", id=1)
        dropped = sum(event.facts["count"] for event in await stage.hears("dropped"))
        assert dropped > 0
        assert len(stage.told("connect")) + dropped >= 40_000
        assert request.facts["status"] == 200


async def _runs(folder: Path, environment: dict[str, str], complaint: str) -> None:
    port = free_port()
    process = ServerProcess(
        plain_uvicorn("app:app", port), env=environment, files={"app.py": APP}, folder=folder
    )
    async with process:
        await process.wait_ready(port, "/ok", timeout=30)
        stage = Stage(None, process, port)  # type: ignore[arg-type]
        assert (await stage.ask("GET", "/ok", 1)).status == 200
        assert process.stderr.count("stormproof prove:") == 1
        assert complaint in process.stderr
