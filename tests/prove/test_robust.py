"""Whatever the app does, `prove` ends with one clear sentence, and leaves nothing behind."""

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.harness import until

pytestmark = pytest.mark.storm

MARK = "STORMPROOF_TEST_MARK"
"""In the environment of `prove`, and so of everything it starts; tells what is left over."""


@dataclass(frozen=True)
class Proved:
    code: int
    out: str
    err: str


def left_over(mark: str) -> list[str]:
    """Return the processes that carry the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(f"{process.pid} {process.cmdline()}")
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


@asynccontextmanager
async def proving(
    folder: Path, source: str, *options: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `prove main:app` in a folder until the block ends, and then nothing may be left."""
    (folder / "main.py").write_text(textwrap.dedent(source))
    mark = str(folder)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stormproof", "prove", "main:app", "--quick", *options),
        cwd=folder,
        env={**os.environ, MARK: mark, "NO_COLOR": "1", "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    await until(lambda: not left_over(mark), 5.0, what="nothing to be left running")


async def proved(folder: Path, source: str, *options: str, timeout: float = 60.0) -> Proved:
    async with proving(folder, source, *options) as process:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate()
        assert process.returncode is not None
        return Proved(process.returncode, out.decode(), err.decode())


def one_sentence(said: Proved) -> str:
    """Return what is on stderr beyond the progress: the last line, and no traceback of ours."""
    assert "stormproof/prove" not in said.err, said.err
    return said.err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        pytest.param(
            "raise RuntimeError('no such table: users')", ["no such table: users"], id="at-import"
        ),
        pytest.param("import nowhere_to_be_found", ["nowhere_to_be_found"], id="missing-module"),
        pytest.param("application = 1", ["app"], id="no-app"),
        pytest.param(
            """
            from contextlib import asynccontextmanager
            from fastapi import FastAPI
            @asynccontextmanager
            async def lifespan(app):
                raise ConnectionRefusedError("the cache is away")
                yield
            app = FastAPI(lifespan=lifespan)
            """,
            ["the cache is away"],
            id="in-its-lifespan",
        ),
        pytest.param(
            "import os\nfrom fastapi import FastAPI\napp = FastAPI()\nos._exit(0)",
            ["exit"],
            id="exits-at-once",
        ),
    ],
)
async def test_app_that_does_not_start_is_one_sentence(
    tmp_path: Path, source: str, words: list[str]
) -> None:
    said = await proved(tmp_path, source)
    assert said.code == 3, said
    sentence = one_sentence(said)
    assert all(word in sentence for word in words), sentence


async def test_app_without_routes_is_one_sentence(tmp_path: Path) -> None:
    said = await proved(tmp_path, "from fastapi import FastAPI\napp = FastAPI()")
    assert said.code == 3, said
    assert "no route to ask" in one_sentence(said)


async def test_app_that_answers_only_401_is_told_how_to_log_in(tmp_path: Path) -> None:
    source = """
    from fastapi import Depends, FastAPI, HTTPException
    async def user():
        raise HTTPException(401)
    app = FastAPI(dependencies=[Depends(user)])
    @app.get("/me")
    async def me(): return {}
    """
    said = await proved(tmp_path, source)
    assert said.code == 3, said
    assert "401" in one_sentence(said)
    assert "--scenario" in one_sentence(said)


async def test_app_that_never_becomes_ready_is_given_up(tmp_path: Path) -> None:
    source = """
    import asyncio
    from contextlib import asynccontextmanager
    from fastapi import FastAPI
    @asynccontextmanager
    async def lifespan(app):
        await asyncio.Event().wait()
        yield
    app = FastAPI(lifespan=lifespan)
    """
    said = await proved(tmp_path, source, "--start-limit", "2")
    assert said.code == 3, said
    assert "2 s" in one_sentence(said)


async def test_megabytes_of_output_do_not_stop_it(tmp_path: Path) -> None:
    source = """
    import sys
    from fastapi import FastAPI
    app = FastAPI()
    @app.get("/")
    async def root():
        sys.stdout.write("x" * 2_000_000 + chr(10))
        sys.stderr.write("y" * 2_000_000 + chr(10))
        return {}
    """
    said = await proved(tmp_path, source, "--only", "task-hygiene")
    assert said.code == 0, said
    assert len(said.out) + len(said.err) < 100_000


async def test_app_that_forks_and_ignores_sigterm_is_ended_all_the_same(tmp_path: Path) -> None:
    source = """
    import os, signal, subprocess, sys, time
    from contextlib import asynccontextmanager
    from fastapi import FastAPI
    CHILD = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    @asynccontextmanager
    async def lifespan(app):
        subprocess.Popen([sys.executable, "-c", CHILD], start_new_session=True)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        yield
    app = FastAPI(lifespan=lifespan)
    @app.get("/")
    async def root(): return {}
    """
    said = await proved(tmp_path, source, "--only", "task-hygiene")
    assert said.code == 0, said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--only", "no-such-audit"], "no audit 'no-such-audit'"),
        (["--scenario", "missing.toml"], "cannot read scenario"),
        (["--profile", "moon"], "moon"),
        (["--dependency", "nonsense"], "nonsense"),
    ],
)
async def test_wrong_use_is_one_sentence_and_nothing_is_started(
    tmp_path: Path, options: list[str], words: str
) -> None:
    said = await proved(tmp_path, "open('started', 'w')", *options)
    assert said.code == 2, said
    assert words in said.err
    assert not (tmp_path / "started").exists()


SOUND = """
from fastapi import FastAPI
app = FastAPI()
@app.get("/")
async def root(): return {}
"""


@pytest.mark.parametrize("attack", ["baseline", "drain"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_it_leaves_nothing(
    tmp_path: Path, attack: str, number: signal.Signals
) -> None:
    """As the attack begins: while the app starts, and while another instance of it runs."""
    async with proving(tmp_path, SOUND, "--only", "drain-in-flight") as process:
        assert process.stderr is not None
        async with asyncio.timeout(60):
            line = b""
            while f", {attack}:".encode() not in line:
                line = await process.stderr.readline()
                assert line, "the progress does not name the attack"
            process.send_signal(number)
            _, err = await process.communicate()
        assert process.returncode == 128 + number, err
        assert b"Traceback" not in err
