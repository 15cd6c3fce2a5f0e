"""What the tests of the target share: tiny apps, started, and who is left of them."""

import textwrap
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import psutil

from stormproof.prove import ProveOptions
from stormproof.prove.target import Target, started
from tests.harness import until

MARK = "STORMPROOF_TEST_MARK"

SERVE = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""
"""An app in plain ASGI: it starts four times as fast as one with a framework."""

SCRIPT = "{python} server.py {{port}}"
"""A command that runs `server.py` of the folder."""

LISTEN = """
import http.server, os, signal, subprocess, sys, threading, time

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()
    def log_message(self, *words):
        pass

def serve(port):
    http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Answer).serve_forever()

"""
"""The beginning of a `server.py`: `serve(port)` answers until it is killed."""

CHILD = """
def stay(seconds=600):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(seconds)
    os._exit(0)

"""
"""After it, `stay()` is a child that no signal but SIGKILL ends."""


def target(
    folder: Path, source: str, *, zero: float | None = None, **options: object
) -> AbstractAsyncContextManager[Target]:
    """Start `main:app` (or with a command `server.py`) of the folder, marked as the test's."""
    name = "server.py" if "command" in options else "main.py"
    (folder / name).write_text(textwrap.dedent(source))
    begun = time.monotonic() if zero is None else zero
    settings: dict[str, object] = {"app": "main:app", "directory": folder, **options}
    if "command" in options:
        settings |= {"server": "command"}
    return started(
        ProveOptions(**settings),  # type: ignore[arg-type]
        zero=begun,
        environment=mark(folder),
    )


def mark(folder: Path) -> Mapping[str, str]:
    return {MARK: str(folder)}


def left_over(folder: Path) -> list[str]:
    """Return the processes that carry the folder's mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(folder) and process.status() != "zombie":
                found.append(f"{process.pid} {process.cmdline()}")
        except psutil.Error:
            continue
    return found


async def nothing_left(folder: Path) -> None:
    """Wait until no process of the folder is left, at most 5 s."""
    await until(lambda: not left_over(folder), 5.0, what="no process to be left")
