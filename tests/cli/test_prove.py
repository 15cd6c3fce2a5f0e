"""The command `prove`: one sentence for wrong use, the right exit code, nothing left running."""

import asyncio
import io
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from xml.etree import ElementTree as xml

import pytest

from stormproof.cli._main import _parser
from stormproof.cli._prove_options import prove_options
from stormproof.cli._prove_progress import displayed_progress
from stormproof.prove import PROFILES, Progress, ProveOptions, save_recording
from tests.harness import ServerEnded, ServerProcess, until
from tests.prove.report.samples import recording, silent_report

from .test_bad_input import assert_one_sentence, run

SOUND = """
import asyncio
from fastapi import FastAPI
app = FastAPI()

@app.get("/items")
async def items() -> list[int]:
    await asyncio.sleep(0.01)
    return [1, 2]
"""


def parsed(*words: str) -> ProveOptions:
    return prove_options(_parser().parse_args(["prove", *words]))


def audited(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    save_recording(recording(), folder / "run.json.gz")
    return run(folder, "prove", "--audit", "run.json.gz", *words)


# --- options


def test_defaults_are_those_of_the_room() -> None:
    assert parsed("main:app") == ProveOptions(app="main:app")


def test_every_option_arrives() -> None:
    given = (
        "main:app --server hypercorn --quick --only a,b --only c --skip d --profile docker "
        "--scenario s.toml --writes --runs 5 --dependency UP_URL=http://127.0.0.1:1 --deadline 4 "
        "--live /l --ready /r --start-limit 7 --env A=1 --env B=x=y --allow-remote UP_URL"
    )
    assert parsed(*given.split()) == ProveOptions(
        app="main:app",
        server="hypercorn",
        is_quick=True,
        only=("a", "b", "c"),
        skip=("d",),
        profile=PROFILES["docker"],
        scenario=Path("s.toml"),
        with_writes=True,
        runs=5,
        dependencies={"UP_URL": "http://127.0.0.1:1"},
        deadline=4.0,
        live="/l",
        ready="/r",
        start_limit=7.0,
        environment={"A": "1", "B": "x=y"},
        allow_remote=("UP_URL",),
    )


def test_command_needs_no_app() -> None:
    options = parsed("--command", "python serve.py {port}")
    assert (options.app, options.server) == ("", "command")
    assert options.command == "python serve.py {port}"


def test_app_is_found_in_pyproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.fastapi]\nentrypoint = "shop.main:api"\n')
    monkeypatch.chdir(tmp_path)
    assert parsed().app == "shop.main:api"


def test_every_profile_of_the_room_can_be_named() -> None:
    for name, profile in PROFILES.items():
        assert parsed("main:app", "--profile", name).profile is profile


# --- wrong use


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("main.py",), "'main.py' is not of the form module:app"),
        (("main:",), "not of the form module:app"),
        (("main:app", "--env", "A"), "'A' is not of the form NAME=VALUE"),
        (("main:app", "--deadline", "-1"), "not a number of seconds above 0"),
        (("main:app", "--deadline", "nan"), "not a number of seconds above 0"),
        (("main:app", "--runs", "0"), "not a number from 1"),
        (("main:app", "--server", "apache"), "apache"),
    ],
)
def test_malformed_option_is_wrong_use(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = run(tmp_path, "prove", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--html", "nowhere/r.html"), "there is no folder nowhere"),
        (("--junit", "."), "is a folder"),
        (("--json", "-", "--markdown", "-"), "only one of"),
        (("--only", "no-such-audit"), "'no-such-audit'"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_started(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "main.py").write_text("raise SystemExit('it was imported')\n")
    done = run(tmp_path, "prove", "main:app", *words)
    assert_one_sentence(done, 2, said, "[SP101]")
    assert done.stdout == ""


def test_no_app_is_one_sentence(tmp_path: Path) -> None:
    assert_one_sentence(run(tmp_path, "prove"), 3, "give module:app", "[SP103]")


def test_wrong_recording_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert_one_sentence(
        run(tmp_path, "prove", "--audit", "run.json"), 2, "not a recording", "[SP101]"
    )
    assert_one_sentence(run(tmp_path, "prove", "--audit", "no.json"), 2, "No such file")
    assert_one_sentence(audited(tmp_path, "main:app"), 2, "name no app")
    assert_one_sentence(audited(tmp_path, "--only", "no-such"), 2, "'no-such'")


def test_missing_extra_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['jinja2'] = None; from stormproof.cli import main; "
    done = subprocess.run(
        [sys.executable, "-c", code + "sys.exit(main(['prove', 'main:app']))"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert_one_sentence(done, 3, "pip install 'stormproof[prove]'", "[SP102]")


# --- a saved recording, again


def test_list_names_every_audit(tmp_path: Path) -> None:
    done = run(tmp_path, "prove", "--list")
    assert done.returncode == 0
    listed = json.loads(run(tmp_path, "prove", "--list", "--format", "json").stdout)
    assert [line.split()[0] for line in done.stdout.splitlines()] == [row["id"] for row in listed]
    assert "drain-in-flight" in done.stdout


def test_saved_recording_is_audited_again_into_every_format(tmp_path: Path) -> None:
    files = ("--html", "r.html", "--json", "r.json", "--junit", "r.xml", "--markdown", "r.md")
    done = audited(tmp_path, *files, "--save-recording", "again.json")
    assert "Traceback" not in done.stderr
    assert "stormproof.demo.seed:app" in done.stdout
    assert (tmp_path / "r.html").read_text().startswith("<!DOCTYPE html>")
    report = json.loads((tmp_path / "r.json").read_text())
    has_failed = any(audit["verdict"] == "fail" for audit in report["audits"])
    assert done.returncode == (1 if has_failed else 0)
    assert xml.parse(tmp_path / "r.xml").getroot().tag == "testsuites"
    assert (tmp_path / "r.md").read_text().startswith("### ")
    again = run(tmp_path, "prove", "--audit", "again.json", "--format", "json")
    assert json.loads(again.stdout) == report
    assert run(tmp_path, "prove", "--audit", "again.json", "--json", "-").stdout == again.stdout
    assert run(tmp_path, "prove", "--audit", "again.json", "--markdown", "-").stdout == (
        tmp_path / "r.md"
    ).read_text(encoding="utf-8")


def test_reader_that_leaves_early_is_no_fault(tmp_path: Path) -> None:
    save_recording(recording(), tmp_path / "run.json")
    shell = f"{sys.executable} -m stormproof prove --audit run.json --html r.html | true"
    done = subprocess.run(
        ["sh", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stderr == "stormproof: wrote r.html\n"


def test_recording_without_good_answers_could_not_be_judged(tmp_path: Path) -> None:
    save_recording(silent_report().recording, tmp_path / "run.json")
    done = run(tmp_path, "prove", "--audit", "run.json")
    assert done.returncode == 3
    assert "no request was answered 2xx" in done.stdout


# --- a real run


def test_real_run_reports_with_plain_lines_in_a_log(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(SOUND)
    done = run_long(tmp_path, "main:app", "--quick", "--only", "drain-budget", "--html", "r.html")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PASS  nothing that must hold failed: 1 check passed")
    assert "prove: 1 of " in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert 'id="drain-budget"' in (tmp_path / "r.html").read_text()


def test_app_that_fails_on_import_could_not_be_run(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import no_such_module\n")
    done = run_long(tmp_path, "main:app", "--quick", "--only", "drain-budget")
    assert_one_sentence(done, 3, "no_such_module", "[SP701]")


@pytest.mark.parametrize(("number", "code"), [(SIGINT, 130), (SIGTERM, 143)])
@pytest.mark.parametrize("line", [", baseline: ", ", drain: "])
async def test_stopped_run_is_one_line_and_leaves_nothing_running(
    line: str, number: Signals, code: int
) -> None:
    command = [sys.executable, "-m", "stormproof", "prove", "main:app", "--only", "drain-budget"]
    async with ServerProcess(command, files={"main.py": SOUND}) as process:
        await process.wait_for_line(line, timeout=40.0)
        await until(lambda: descendants(process.pid), 10.0, what="the app to be started")
        process.signal(number)
        app = descendants(process.pid)
        assert await process.wait_exit(20.0) == code
        assert process.stdout == ""
        assert f"stormproof: stopped by {number.name}; nothing is left running" in process.stderr
        assert "Traceback" not in process.stderr
        await until(lambda: not any(map(is_alive, app)), 5.0, what="the app to be gone")


async def test_impatient_ctrl_c_changes_nothing() -> None:
    command = [sys.executable, "-m", "stormproof", "prove", "main:app", "--only", "drain-budget"]
    async with ServerProcess(command, files={"main.py": SOUND}) as process:
        await process.wait_for_line(", baseline: ", timeout=40.0)
        await until(lambda: descendants(process.pid), 10.0, what="the app to be started")
        app = descendants(process.pid)
        with suppress(ServerEnded):
            while True:
                process.signal(SIGINT)
                await asyncio.sleep(0.02)
        assert await process.wait_exit() == 130
        assert process.stderr.count("stopped by SIGINT") == 1
        assert "Traceback" not in process.stderr
        await until(lambda: not any(map(is_alive, app)), 5.0, what="the app to be gone")


def run_long(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stormproof", "prove", *words],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


# --- progress


class Screen(io.StringIO):
    """A terminal that remembers all that was written to it."""

    def isatty(self) -> bool:
        return True


STEPS = (
    Progress("baseline", "learn the routes", 0, 3, 60.0, "begun"),
    Progress("baseline", "learn the routes", 1, 3, 40.0, "ended"),
    Progress("patience", "long idle", 1, 3, 40.0, "begun"),
    Progress("drain", "SIGTERM [red]under load", 1, 3, 40.0, "begun"),
    Progress("drain", "", 2, 3, 20.0, "ended", "the app \x1b[2J died\nhere"),
    Progress("baseline", "", 2, 3, 0.0, "note", "what failed by the clock is tried again"),
)


def test_terminal_says_which_attack_runs_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    screen = Screen()
    with displayed_progress(screen) as show:
        for step in STEPS[:4]:
            show(step)
    shown = screen.getvalue()
    assert "drain: SIGTERM [red]under load; beside it patience: long idle" in shown
    assert "about 40 s left" in shown
    assert "1/3" in shown


def test_log_has_a_line_a_step_and_nothing_that_moves() -> None:
    log = io.StringIO()
    with displayed_progress(log) as show:
        for step in STEPS:
            show(step)
    assert log.getvalue().splitlines() == [
        "prove: 1 of 3, baseline: learn the routes (about 60 s left)",
        "prove: 2 of 3, patience: long idle (about 40 s left)",
        "prove: 2 of 3, drain: SIGTERM [red]under load (about 40 s left)",
        "prove: drain could not be run: the app died here",
        "prove: what failed by the clock is tried again",
    ]


def test_escape_sequences_of_the_app_do_not_reach_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    with displayed_progress(screen) as show:
        show(STEPS[4])
    assert "the app died here" in screen.getvalue()
    assert "\x1b[2J" not in screen.getvalue()
