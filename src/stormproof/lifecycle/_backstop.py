"""The backstop: ends a process that the drain cannot end, at the end of the grace."""

import asyncio
import logging
import os
import threading

from ._drain import Drain
from ._uvicorn import is_under_gunicorn

_log = logging.getLogger("stormproof")

_EXIT_LOST = 3
_EXIT_UNDER_GUNICORN = 1
"""There 3 says that the app does not start, and the arbiter would stop every other worker."""

_LAST_MOMENT = 0.25
"""Seconds before the shutdown deadline at which it acts, so that the grace is kept."""


class Backstop:
    """A timer on a thread of its own, so that it also works while the event loop is blocked.

    A handler that swallows each cancellation keeps `asyncio.run` waiting for ever, and a
    blocked loop never comes to its drain: the platform would kill the process without a word.
    It acts only while the loop is not closed, that is while the server still runs.

    Args:
        drain: The drain; its losses and what it gave up on are named in the log.
        loop: The loop that the server runs in.
    """

    def __init__(self, drain: Drain, loop: asyncio.AbstractEventLoop) -> None:
        self._drain = drain
        self._loop = loop
        self._timer: threading.Timer | None = None

    def arm(self) -> None:
        """Start to count the grace; again: does nothing. Safe in a signal handler."""
        if self._timer is None:
            seconds = max(0.0, self._drain.lifecycle.grace - _LAST_MOMENT)
            self._timer = threading.Timer(seconds, self._leave)
            self._timer.name = "stormproof backstop"
            self._timer.daemon = True
            self._timer.start()

    def disarm(self) -> None:
        """Stop counting, unless something that was cut may still hold the process."""
        if self._timer is not None and not self._drain.has_stuck_work():
            self._timer.cancel()

    def _leave(self) -> None:
        if self._loop.is_closed():
            return
        _log.error("the grace is over and something does not end: leaving now")
        if not self._drain.is_reported:
            self._drain.note_unfinished()
            self._drain.report()
        logging.shutdown()
        os._exit(_EXIT_UNDER_GUNICORN if is_under_gunicorn() else _EXIT_LOST)
