"""Work: run an app's jobs without serving it, until SIGTERM."""

import asyncio
import logging
import signal
from typing import Any, Protocol, runtime_checkable

from stormproof.errors import InvalidSetting
from stormproof.fastapi import installed_drain
from stormproof.lifecycle import Drain

from ._logs import set_up_logs

_log = logging.getLogger("stormproof")


@runtime_checkable
class _RunsJobs(Protocol):
    """A part that runs jobs, told by its shape: the room itself may not be installed."""

    def run_here(self, concurrency: int) -> None: ...


def work(app: Any, *, concurrency: int, grace: float | None = None) -> int:
    """Run the jobs of `app` in this process until SIGTERM or SIGINT, drain, return the exit code.

    Its whole lifespan runs, with every part, but nothing listens. Blocks the calling (main)
    thread. A second signal forces.

    Args:
        app: A FastAPI app that was given `Jobs` by `install`.
        concurrency: How many jobs at once, 1 or more.
        grace: Seconds from the signal to the end of everything; None: the app's own.

    Returns:
        0 after a clean drain; 3 when acknowledged work was lost.

    Raises:
        InvalidSetting: The app has no jobs, or a setting is out of range.
    """
    drain = installed_drain(app)
    parts = [] if drain is None else [p for p in drain.parts if isinstance(p, _RunsJobs)]
    if drain is None or not parts:
        raise InvalidSetting("worker: this app has no jobs; give them to install(app, db, jobs)")
    if concurrency < 1:
        raise InvalidSetting(f"--concurrency must be 1 or more; got {concurrency}")
    if grace is not None:
        drain.lifecycle.grace = grace
    for part in parts:
        part.run_here(concurrency)
    set_up_logs("text", phase=lambda: drain.lifecycle.phase.value)
    asyncio.run(_work(app, drain))
    return 3 if drain.lifecycle.losses else 0


async def _work(app: Any, drain: Drain) -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    drain.is_commanded = True  # the signals are ours

    def on_signal() -> None:
        if told.is_set():
            drain.force()
        told.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, on_signal)
    async with app.router.lifespan_context(app):
        _log.info("working; SIGTERM drains")
        await told.wait()
