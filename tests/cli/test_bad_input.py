"""Bad input: one clear sentence, the right exit code, no traceback, nothing half started."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

GOOD = "from fastapi import FastAPI\napp = FastAPI()\n"


def run(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stormproof", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), **env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def assert_one_sentence(done: subprocess.CompletedProcess[str], code: int, *fragments: str) -> None:
    assert "Traceback" not in done.stderr + done.stdout
    assert [line for line in done.stderr.splitlines() if "stormproof: " in line], done.stderr
    for fragment in fragments:
        assert fragment in done.stderr
    assert done.returncode == code


def test_unknown_database_scheme(tmp_path: Path) -> None:
    done = run(tmp_path, "demo", DATABASE_URL="oracle://scott:tiger@db/x")
    assert_one_sentence(done, 2, "oracle", "sqlite", "postgresql", "[SP101]")
    assert "tiger" not in done.stderr
    assert list(tmp_path.glob("*.db")) == []


def test_database_that_cannot_be_reached(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        url = f"postgresql+asyncpg://me:secret@127.0.0.1:{port}/x"
        done = run(tmp_path, "demo", "--port", "0", DATABASE_URL=url)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr
    assert str(port) in done.stderr


def test_port_in_use(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(GOOD)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run(tmp_path, "serve", "main:app", "--port", port)
    assert_one_sentence(done, 3, f"127.0.0.1:{port} is in use", "--port", "[SP104]")


@pytest.mark.parametrize(
    ("source", "target", "fragments"),
    [
        (None, "nowhere:app", ["there is no module 'nowhere'"]),
        ("import not_there", "main:app", ["needs 'not_there', which is not installed"]),
        ("1 / 0", "main:app", ["fails on import: ZeroDivisionError", "main.py:1"]),
        ("def broken(:", "main:app", ["fails on import: SyntaxError", "main.py:1"]),
        ("raise SystemExit(1)", "main:app", ["left with exit code 1 on import"]),
        (GOOD, "main:api", ["has no attribute 'api'"]),
        ("app = 3", "main:app", ["is a int, not an ASGI application"]),
        ("x = 3", "main", ["has no FastAPI apps"]),
        (GOOD, "../main.py", ["is not of the form module:app"]),
    ],
)
def test_module_that_gives_no_app(
    source: str | None, target: str, fragments: list[str], tmp_path: Path
) -> None:
    if source is not None:
        (tmp_path / "main.py").write_text(source)
    done = run(tmp_path, "serve", target)
    assert_one_sentence(done, 3, "[SP103]", *fragments)


def test_no_app_named(tmp_path: Path) -> None:
    assert_one_sentence(run(tmp_path, "serve"), 3, "no application named", "[SP103]")


@pytest.mark.parametrize(
    ("arguments", "env", "fragments"),
    [
        (["--grace", "0"], {}, ["grace must be a number of seconds, more than 0; got 0.0"]),
        (["--prestop", "-1"], {}, ["prestop must be a number of seconds, 0 or more"]),
        (["--grace", "2"], {}, ["must be less than"]),
        ([], {"STORMPROOF_GRACE": "soon"}, ["STORMPROOF_GRACE", "'soon'"]),
        ([], {"STORMPROOF_DEADLINE": "-3"}, ["STORMPROOF_DEADLINE", "'-3'"]),
    ],
)
def test_setting_out_of_range(
    arguments: list[str], env: dict[str, str], fragments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text(GOOD)
    done = run(tmp_path, "serve", "main:app", "--port", "0", *arguments, **env)
    assert_one_sentence(done, 2, "[SP101]", *fragments)


@pytest.mark.parametrize("arguments", [[], ["fly"], ["serve", "main:app", "--port", "99999"]])
def test_wrong_use_is_exit_code_2(arguments: list[str], tmp_path: Path) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: stormproof")


def test_negative_capacity_in_the_app(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import stormproof\nlimit = stormproof.Limiter(-1)\n" + GOOD)
    done = run(tmp_path, "serve", "main:app")
    assert_one_sentence(done, 2, "capacity", "-1", "[SP101]")


def test_part_that_does_not_open_stops_the_start(tmp_path: Path) -> None:
    """What had opened before is closed again, and the log has a sentence, no traceback."""
    (tmp_path / "main.py").write_text(
        """
import stormproof
from fastapi import FastAPI
class Part:
    def __init__(self, name): self.name = name
    async def open(self, lifecycle):
        if self.name == "bad": raise OSError("no such disk")
    async def drain(self, until): return ()
    async def close(self): print("closed", self.name, flush=True)
app = FastAPI()
stormproof.install(app, Part("good"), Part("bad"))
"""
    )
    done = run(tmp_path, "serve", "main:app", "--port", "0")
    assert done.returncode == 3
    assert "part 'bad' could not open: OSError: no such disk [SP107]" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "closed good\n"


def test_version_and_help(tmp_path: Path) -> None:
    assert run(tmp_path, "--version").stdout.strip()
    shown = run(tmp_path, "--help").stdout
    assert "serve" in shown
    assert "demo" in shown
