"""Wrong use of workers and of `reload`: one sentence, the right exit code, nothing started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_bad_input import GOOD, assert_one_sentence, run


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--workers", "0"], "--workers must be 1 or more; got 0"),
        (["--stall-kill", "0.1"], "--stall-kill must be a number of seconds, 0.5 or more"),
        (["--stall-kill", "nan"], "--stall-kill must be"),
        (["--workers", "2", "--start-limit", "0"], "--start-limit must be"),
        (["--pid-file", "missing/app.pid"], "missing/app.pid cannot be written"),
    ],
)
def test_option_out_of_range(arguments: list[str], fragment: str, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(GOOD)
    done = run(tmp_path, "serve", "main:app", "--port", "0", *arguments)
    assert_one_sentence(done, 2, "[SP101]", fragment)


def test_reload_wants_one_process(tmp_path: Path) -> None:
    assert run(tmp_path, "reload").returncode == 2
    assert_one_sentence(run(tmp_path, "reload", "--pid", "0"), 2, "--pid must be a process id")
    done = run(tmp_path, "reload", "--pid-file", "app.pid")
    assert_one_sentence(done, 2, "app.pid cannot be read")
    (tmp_path / "app.pid").write_text("soon")
    done = run(tmp_path, "reload", "--pid-file", "app.pid")
    assert_one_sentence(done, 2, "holds no process id but 'soon'")


def test_reload_of_a_process_that_has_ended(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    done = run(tmp_path, "reload", "--pid", str(ended.pid))
    assert_one_sentence(done, 3, f"there is no process {ended.pid}", "[SP106]")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="told on Linux alone")
def test_reload_does_not_kill_who_takes_no_hangups(tmp_path: Path) -> None:
    """A stale pid file may name anybody, and SIGHUP ends whoever has no handler for it."""
    wait = "import sys; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", wait]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        done = run(tmp_path, "reload", "--pid", str(other.pid))
        assert_one_sentence(done, 3, "is no parent of `serve`")
        assert other.poll() is None
        other.kill()
