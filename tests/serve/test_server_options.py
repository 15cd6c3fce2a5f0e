"""The options of `serve`, on real processes: admin listener, TLS, JSON log, --explain."""

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from signal import SIGHUP, SIGTERM
from typing import Any

import pytest

from tests.harness import ServerProcess, free_port, request, serve_app, until
from tests.serve.certificates import make_certificate

APP = """
import asyncio, time
from fastapi import FastAPI
import stormproof
app = FastAPI()
stormproof.install(app, grace=9, prestop=0.2)
@app.get("/blocks")
async def blocks():
    time.sleep(4)
@app.get("/waits")
async def waits():
    await asyncio.sleep(4)
@app.get("/fails")
async def fails():
    return 1 / 0
"""
FILES = {"main.py": APP}


async def admin_json(port: int, path: str) -> tuple[int, Any]:
    answer = await request(port, "GET", path, timeout=5.0)
    return answer.status, json.loads(answer.body) if answer.body else None


async def test_admin_speaks_while_the_loop_is_stuck_and_says_where() -> None:
    port, admin = free_port(), free_port()
    command = serve_app("main:app", port, "--admin", str(admin))
    async with ServerProcess(command, files=FILES) as process:
        await process.wait_ready(port)
        assert (await admin_json(admin, "/livez"))[0] == 200
        assert (await admin_json(admin, "/readyz"))[0] == 200
        blocking = asyncio.create_task(request(port, "GET", "/blocks", timeout=15.0))

        async def stuck() -> Any:
            status, report = await admin_json(admin, "/livez")
            return report["stuck"] if status == 503 else None

        (found,) = await until(stuck, timeout=10.0)
        assert found["seconds"] > 1.0
        assert "main.py:" in found["at"]
        assert found["at"].endswith("in blocks")
        assert (await admin_json(admin, "/readyz"))[0] == 503
        assert (await blocking).status == 200

        async def is_well() -> bool:
            return (await admin_json(admin, "/livez"))[0] == 200

        await until(is_well, timeout=10.0)


async def test_rehearsal_names_the_request_that_is_open_and_its_line() -> None:
    port, admin = free_port(), free_port()
    command = serve_app("main:app", port, "--admin", str(admin))
    async with ServerProcess(command, files=FILES) as process:
        await process.wait_ready(port)
        waiting = asyncio.create_task(request(port, "GET", "/waits", timeout=15.0))

        async def opened() -> Any:
            # It is counted in before its handler has come to the line where it waits.
            _, report = await admin_json(admin, "/drain")
            entries = report["workers"][0]["open"]
            return report if entries and entries[0]["detail"].endswith("in waits") else None

        report = await until(opened)
        (worker,) = report["workers"]
        (entry,) = worker["open"]
        assert report["open"]["request"] == 1
        assert (entry["kind"], entry["name"]) == ("request", "GET /waits")
        assert worker["grace_seconds"] == 9
        process.signal(SIGTERM)  # the rehearsal changed nothing, and the real one loses nothing
        assert (await waiting).status == 200
        assert await process.wait_exit(timeout=15.0) == 0


async def test_metrics_count_for_all_workers_together() -> None:
    port, admin = free_port(), free_port()
    command = serve_app("main:app", port, "--admin", str(admin), "--workers", "2")
    async with ServerProcess(command, files=FILES) as process:
        await process.wait_ready(port, timeout=20.0)

        async def samples() -> dict[str, float]:
            text = (await request(admin, "GET", "/metrics")).body.decode()
            lines = [line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#"]
            return {name: float(value) for name, value in lines}

        async def both_ready() -> bool:
            return (await samples()).get('stormproof_workers{phase="ready"}') == 2

        await until(both_ready, timeout=20.0)
        before = await samples()
        for _ in range(20):
            assert (await request(port, "GET", "/nowhere")).status == 404
        assert (await request(port, "GET", "/fails")).status == 500
        after = await samples()
        name = 'stormproof_responses_total{class="%s"}'
        assert after[name % "4xx"] - before[name % "4xx"] == 20
        assert after[name % "5xx"] - before[name % "5xx"] == 1
        assert after["process_resident_memory_bytes"] > 20e6
        workers = (await admin_json(admin, "/drain"))[1]["workers"]
        assert len({worker["pid"] for worker in workers}) == 2


@pytest.mark.parametrize("extra", [(), ("--workers", "2")], ids=["alone", "workers"])
async def test_tls_is_served(tmp_path: Path, extra: tuple[str, ...]) -> None:
    certificate, port = make_certificate(tmp_path), free_port()
    files = ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(tmp_path / "site.key")]
    async with ServerProcess(serve_app("main:app", port, *files, *extra), files=FILES) as process:
        await process.wait_for_line(r"serving on https://", timeout=20.0)
        context = ssl.create_default_context(cafile=str(certificate))
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()
        await writer.wait_closed()
        process.signal(SIGTERM)
        assert await process.wait_exit(timeout=15.0) == 0


async def test_renewed_certificate_is_taken_over_and_a_broken_one_is_not(tmp_path: Path) -> None:
    certificate, key, port = make_certificate(tmp_path), tmp_path / "site.key", free_port()
    files = ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)]
    command = serve_app("main:app", port, *files, "--supervised")

    def served() -> str:
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=5.0)

    async with ServerProcess(command, files=FILES) as process:
        await process.wait_for_line(r"serving on https://", timeout=20.0)
        first = certificate.read_text()
        assert (await asyncio.to_thread(served)).split() == first.split()
        certificate.write_text("no certificate")
        process.signal(SIGHUP)
        await process.wait_for_line("hand-over given up.*hold no PEM certificate", timeout=20.0)
        assert (await asyncio.to_thread(served)).split() == first.split()
        make_certificate(tmp_path)
        process.signal(SIGHUP)
        await process.wait_for_line("hand-over: 1 new workers serve", timeout=20.0)

        async def is_renewed() -> bool:
            now = await asyncio.to_thread(served)
            return now.split() == certificate.read_text().split()

        await until(is_renewed, timeout=10.0)


async def test_log_as_json_has_a_line_for_each_phase() -> None:
    port = free_port()
    command = serve_app("main:app", port, "--log-format", "json", "--access-log")
    async with ServerProcess(command, files=FILES) as process:
        await process.wait_ready(port)
        await request(port, "GET", "/fails")
        process.signal(SIGTERM)
        assert await process.wait_exit(timeout=15.0) == 0
        lines = [json.loads(line) for line in process.stderr.splitlines()]
    phases = [line["phase"] for line in lines]
    assert sorted(set(phases), key=phases.index) == ["starting", "ready", "draining", "stopping"]
    assert any(line.get("path") == "/fails" and line.get("status") == 500 for line in lines)
    assert any("ZeroDivisionError" in line.get("exception", "") for line in lines)
    assert process.stdout == ""


def stormproof(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "stormproof", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def test_explain_knows_what_install_was_given_and_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(APP)
    done = stormproof(tmp_path, "serve", "main:app", "--explain", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    plan = json.loads(done.stdout)["plan"]
    assert (plan["grace"], plan["prestop"], plan["wait"]) == (9, 0.2, 14)
    text = stormproof(tmp_path, "serve", "main:app", "--explain", "--grace", "20").stdout
    assert "terminationGracePeriodSeconds: 25" in text


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--header-timeout", "0"], "--header-timeout must be a number of seconds, more than 0"),
        (["--body-timeout", "nan"], "--body-timeout must be a number of seconds, more than 0"),
        (["--admin", "everywhere"], "--admin must be PORT"),
        (["--ssl-certfile", "none.pem"], "--ssl-certfile none.pem cannot be read: No such file"),
        (["--ssl-keyfile", "none.pem"], "--ssl-keyfile is of no use without --ssl-certfile"),
    ],
)
def test_wrong_option_is_one_sentence(tmp_path: Path, arguments: list[str], fragment: str) -> None:
    (tmp_path / "main.py").write_text(APP)
    done = stormproof(tmp_path, "serve", "main:app", "--port", "0", *arguments)
    assert done.returncode == 2
    assert fragment in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_changed_file_is_served_without_a_lost_request_and_a_broken_one_is_not() -> None:
    port = free_port()
    old, new = "app = FastAPI(version='1')\n", "app = FastAPI(version='2')\n"
    head = "from fastapi import FastAPI\n"
    command = serve_app("main:app", port, "--reload")
    async with ServerProcess(command, files={"main.py": head + old}) as process:
        await process.wait_ready(port, timeout=20.0)

        async def version() -> str:
            answer = await request(port, "GET", "/openapi.json")
            assert answer.status == 200
            return str(json.loads(answer.body)["info"]["version"])

        assert await version() == "1"
        (process.folder / "main.py").write_text(head + "1 / 0\n")
        await process.wait_for_line("hand-over given up.*ZeroDivisionError", timeout=20.0)
        assert await version() == "1"
        (process.folder / "main.py").write_text(head + new)

        async def is_new() -> bool:
            return await version() == "2"

        await until(is_new, timeout=20.0)
        process.signal(SIGTERM)
        assert await process.wait_exit(timeout=15.0) == 0


def test_reload_is_for_one_worker(tmp_path: Path) -> None:
    done = stormproof(tmp_path, "serve", "main:app", "--reload", "--workers", "2")
    assert done.returncode == 2
    assert "--reload is for development: it goes with one worker only" in done.stderr


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [("watchfiles", ["--reload"], "reload"), ("zttp", ["--http2", "experimental"], "http2")],
)
def test_missing_extra_is_one_sentence(
    tmp_path: Path, module: str, arguments: list[str], extra: str
) -> None:
    (tmp_path / "main.py").write_text(APP)
    # As if it were not installed: a name in sys.modules without a module.
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    done = subprocess.run(
        [sys.executable, "-m", "stormproof", "serve", "main:app", "--port", "0", *arguments],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert f"needs {module!r}; install it with pip install 'stormproof[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("extra", [(), ("--workers", "2")], ids=["alone", "workers"])
async def test_http2_is_spoken_when_asked_for(extra: tuple[str, ...]) -> None:
    """Also by who began before SIGTERM: the request ends, and HTTP/1 goes on as before."""
    curl = shutil.which("curl")
    has_http2 = curl and b"HTTP2" in subprocess.run([curl, "-V"], capture_output=True).stdout
    if not has_http2:
        pytest.skip("there is no curl with HTTP/2")
    port, admin = free_port(), free_port()
    command = serve_app("main:app", port, "--http2", "experimental", "--admin", str(admin), *extra)
    async with ServerProcess(command, files=FILES) as process:
        await process.wait_ready(port, timeout=20.0)
        talk = [
            "curl",
            "-s",
            "--http2-prior-knowledge",
            "-o",
            "-",
            "-w",
            " %{http_version} %{http_code}",
        ]
        url = f"http://127.0.0.1:{port}"
        asked = await asyncio.create_subprocess_exec(*talk, f"{url}/livez", stdout=-1)
        assert (await asked.communicate())[0].endswith(b" 2 200")
        waiting = await asyncio.create_subprocess_exec(*talk, f"{url}/waits", stdout=-1)

        async def is_open() -> bool:
            return bool((await admin_json(admin, "/drain"))[1]["open"]["request"])

        await until(is_open)
        process.signal(SIGTERM)
        assert (await waiting.communicate())[0] == b"null 2 200"
        assert await process.wait_exit(timeout=15.0) == 0
        assert "Traceback" not in process.output
