"""Run Python blocks, each in a process of its own, forked from one that has done the imports.

Reads a JSON list of {"path", "line", "text"} on stdin and writes a JSON list of
{"problem", "output"} to stdout. An interpreter for each block would take about a second each;
a fork takes a few milliseconds and shares nothing that a block could change for the next.
"""

import gc
import importlib
import json
import os
import signal
import sys
import tempfile
import threading
import traceback
import types
from typing import Any

TIME_LIMIT = 20  # seconds
_HUSHED_FAILURES = (
    "Exception ignored",
    "was never awaited",
    "was never retrieved",
    "was destroyed but it is pending",
)


def main() -> None:
    """Run what stdin says."""
    wanted = json.load(sys.stdin)
    _import_third_parties()
    # Not the null device: whatever a block prints must not get into the JSON.
    answer = os.dup(1)
    os.dup2(2, 1)
    results = [_run_in_fork(block) for block in wanted]
    with os.fdopen(answer, "w") as stream:
        json.dump(results, stream)


def _import_third_parties() -> None:
    """Import what costs time; nothing of stormproof, whose imports the blocks are to show."""
    for name in ("fastapi.testclient", "httpx2", "sqlalchemy.ext.asyncio", "uvicorn"):
        importlib.import_module(name)


def _run_in_fork(block: dict[str, Any]) -> dict[str, str]:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with tempfile.TemporaryDirectory() as folder:
            child = os.fork()
            if child == 0:
                _be_the_block(block, folder, out.fileno(), err.fileno())
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        err.seek(0)
        output, errors = out.read(), err.read()
    return {"problem": _problem(status, errors), "output": output}


def _problem(status: int, errors: str) -> str:
    if status == -signal.SIGALRM:
        return f"it took more than {TIME_LIMIT} s\n{errors}"
    if status != 0 or any(words in errors for words in _HUSHED_FAILURES):
        return f"exit status {status}\n{errors}"
    return ""


def _be_the_block(block: dict[str, Any], folder: str, out: int, err: int) -> None:
    status = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(folder)
        signal.alarm(TIME_LIMIT)
        _execute(block)
        gc.collect()  # brings out what was never awaited
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _execute(block: dict[str, Any]) -> None:
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    # The empty lines make a traceback name the line of the page.
    code = compile("\n" * block["line"] + block["text"], block["path"], "exec")
    exec(code, module.__dict__)
    left = [thread for thread in threading.enumerate()[1:] if not thread.daemon]
    for thread in left:
        thread.join(timeout=2.0)
        assert not thread.is_alive(), f"the block left {thread!r} running"


if __name__ == "__main__":
    main()
