"""Logs: what the server says on stderr, as text for people or as JSON, one object a line."""

import json
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

from stormproof._core.events import Event, PhaseEntered
from stormproof._core.lifecycle import Lifecycle

_log = logging.getLogger("stormproof")

LogFormat = Literal["text", "json"]

_SERVER_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
_ACCESS_FIELDS = ("client", "method", "path", "http_version", "status")


def set_up_logs(
    log_format: LogFormat, *, label: str = "stormproof", phase: Callable[[], str] | None = None
) -> None:
    """Let the `stormproof` logger print to stderr, unless the app has set it up already.

    With "json" that holds for uvicorn's loggers, too, and the app's set-up is not asked: a
    log that is JSON but for some lines can be read by nobody.

    Args:
        log_format: How a line looks.
        label: Who speaks, in front of each line of text.
        phase: Tells the phase, which each line of JSON carries.
    """
    if log_format == "json":
        formatter: logging.Formatter = JsonFormatter(phase)
        _print_alone(_log, formatter)
        for name in _SERVER_LOGGERS:
            # The parent prints for its children; the access log has a parent, too.
            logger = logging.getLogger(name)
            logger.handlers = []
            logger.propagate = True
        _print_alone(logging.getLogger("uvicorn"), formatter)
    elif not _log.hasHandlers():
        _print_alone(_log, logging.Formatter(f"%(asctime)s %(levelname)s {label}: %(message)s"))
        _log.propagate = True


class JsonFormatter(logging.Formatter):
    """One object a line: at (UTC), level, logger, pid, phase, message; access lines have more.

    Args:
        phase: Tells the phase at the time of the line; None: there is no phase.
    """

    def __init__(self, phase: Callable[[], str] | None = None) -> None:
        super().__init__()
        self._phase = phase

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; values that JSON does not know are written as text."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat("T", "milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": os.getpid(),
        }
        if self._phase is not None:
            line["phase"] = self._phase()
        line["message"] = record.getMessage()
        arguments = record.args
        if record.name == "uvicorn.access" and isinstance(arguments, tuple):
            line |= dict(zip(_ACCESS_FIELDS, arguments, strict=False))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def log_phases(lifecycle: Lifecycle) -> Callable[[], None]:
    """Say that the service starts, and later that it stops; returns what ends this.

    "ready" is said with the address, and "draining" with what is open.
    """

    def say(event: Event) -> None:
        if isinstance(event, PhaseEntered) and event.phase == "stopping":
            _log.info("stopping: closing what was opened (lost: %d)", len(lifecycle.losses))

    _log.info("starting (pid %d)", os.getpid())
    return lifecycle.events.subscribe(say)


def _print_alone(logger: logging.Logger, formatter: logging.Formatter) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logger.handlers = [handler]
    logger.propagate = False
    if logger.level == logging.NOTSET or logger is _log:
        logger.setLevel(logging.INFO)
