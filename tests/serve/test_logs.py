"""Logs as JSON: one object a line, whoever speaks."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from stormproof._core.lifecycle import Lifecycle, Phase
from stormproof.serve._logs import JsonFormatter, log_phases, set_up_logs

NAMES = ("stormproof", "uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(one.handlers, one.propagate, one.level) for one in loggers]
    yield
    for one, (handlers, propagate, level) in zip(loggers, before, strict=True):
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_every_logger_writes_one_object_a_line(lines: Any) -> None:
    set_up_logs("json", phase=lambda: "ready")
    logging.getLogger("stormproof").info("serving on %s", "http://a")
    logging.getLogger("uvicorn.error").warning("two\nlines")
    logging.getLogger("uvicorn.access").info(
        '%s - "%s %s HTTP/%s" %d', "10.0.0.1:5", "GET", "/a?b", "1.1", 200
    )
    ours, server, access = lines()
    assert (ours["message"], ours["phase"], ours["level"]) == (
        "serving on http://a",
        "ready",
        "info",
    )
    assert ours["at"].endswith("+00:00")
    assert server["message"] == "two\nlines"
    assert (access["method"], access["path"], access["status"]) == ("GET", "/a?b", 200)


def test_traceback_stays_within_its_line(lines: Any) -> None:
    set_up_logs("json")
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        logging.getLogger("stormproof").exception("failed")
    (line,) = lines()
    assert line["exception"].endswith("ZeroDivisionError: division by zero")
    assert "phase" not in line


def test_value_that_json_does_not_know_is_written_as_text() -> None:
    record = logging.LogRecord("uvicorn.access", 20, "f", 1, "%s", (object(),), None)
    assert json.loads(JsonFormatter().format(record))["client"].startswith("<object")


def test_text_leaves_an_app_s_own_set_up_alone() -> None:
    logger = logging.getLogger("stormproof")
    own = logging.NullHandler()
    logger.handlers = [own]
    set_up_logs("text")
    assert logger.handlers == [own]


async def test_each_phase_that_nobody_else_tells_is_one_line(lines: Any) -> None:
    lifecycle = Lifecycle()
    set_up_logs("json", phase=lambda: lifecycle.phase.value)
    log_phases(lifecycle)
    for phase in Phase:
        lifecycle.enter(phase)
    assert [(line["phase"], line["message"].split()[0]) for line in lines()] == [
        ("starting", "starting"),
        ("stopping", "stopping:"),
    ]
