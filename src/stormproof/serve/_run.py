"""Run the server in this process: uvicorn inside, exit code 0, or 3 when something was lost."""

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG

from stormproof._core.events import PhaseEntered
from stormproof._core.lifecycle import Lifecycle
from stormproof.errors import InvalidSetting
from stormproof.fastapi import install, installed_drain, installed_lifecycle

from ._admin import AdminServer, Snapshots, parse_admin
from ._jobs import Ask
from ._limits import ReadLimits, limited_protocol
from ._listen import addresses_of, open_listeners
from ._logs import log_phases, set_up_logs
from ._options import OVERTIME, ServeOptions
from ._snapshot import Observer
from ._terminal import Terminal

_log = logging.getLogger("stormproof")

EXIT_CLEAN = 0
EXIT_LOST_OR_NOT_STARTED = 3

KEEP_ALIVE = 75
"""Seconds an idle connection is kept: above the 60 s of the usual load balancers, so that they
close it first and never send a request into a connection that is just being closed."""


def serve(app: Any, options: ServeOptions) -> int:
    """Serve `app` in this process until SIGTERM or SIGINT, drain, and return the exit code.

    A FastAPI app without `install()` gets it here. Blocks the calling (main) thread.
    A second signal forces. SIGHUP does nothing but a line in the log (`supervise` restarts),
    unless the terminal that the process was started from has gone: then it drains.

    Returns:
        0 after a clean drain; 3 when the app did not start or acknowledged work was lost.

    Raises:
        PortInUse: The address is taken or may not be used; nothing was started.
        InvalidSetting: The app cannot be given a lifecycle, or a setting is out of range.
    """
    lifecycle = lifecycle_of(app, options)
    with ExitStack() as stack:
        set_up_logs(options.log_format, phase=lambda: lifecycle.phase.value)
        observer = observer_of(app, options)
        if observer is not None:
            stack.callback(observer.close)
            stack.enter_context(
                admin_server(lambda **how: [observer.snapshot(**how)], options, jobs=observer.jobs)
            )
        listeners = open_listeners(options)
        stack.callback(log_phases(lifecycle))
        stack.callback(lifecycle.events.subscribe(_Announcer(listeners, options, lifecycle)))
        config = server_config(app, options, observer)
        return run_server(_Server(config), listeners, lifecycle)


def run_server(
    server: uvicorn.Server, listeners: Sequence[socket.socket], lifecycle: Lifecycle
) -> int:
    """Run `server` on `listeners` to its end, close them, and return the exit code."""
    overtime = lifecycle.events.subscribe(_Overtime(lifecycle))
    try:
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(server.serve(list(listeners)))
    except SystemExit:
        return EXIT_LOST_OR_NOT_STARTED  # uvicorn has said why the start failed
    except (KeyboardInterrupt, asyncio.CancelledError):
        return EXIT_CLEAN  # told to end before it had served anybody
    finally:
        for listener in listeners:
            listener.close()
        overtime()
    return EXIT_LOST_OR_NOT_STARTED if lifecycle.losses else EXIT_CLEAN


def server_config(
    app: Any, options: ServeOptions, observer: Observer | None = None
) -> uvicorn.Config:
    """Return what uvicorn is told, the same for one worker and for many."""
    limits = ReadLimits(header_timeout=options.header_timeout, body_timeout=options.body_timeout)
    return uvicorn.Config(
        app if observer is None else observer.counting(app),
        # The parser for HTTP/2 has protocols of its own, without limits (0.54).
        http="zttp" if options.is_http2 else limited_protocol(limits),
        http2=options.is_http2,
        timeout_keep_alive=KEEP_ALIVE,
        access_log=options.is_access_logged,
        log_level="warning" if not options.is_access_logged else "info",
        # JSON is set up already, for all loggers.
        log_config=None if options.log_format == "json" else LOGGING_CONFIG,
        ssl_certfile=options.ssl_certfile,
        ssl_keyfile=options.ssl_keyfile,
        lifespan="on",
    )


def observer_of(app: Any, options: ServeOptions) -> Observer | None:
    """Return what watches `app` for the admin listener, or None when there is none."""
    drain = installed_drain(app)
    if options.admin is None or drain is None:
        return None
    return Observer(drain.lifecycle, parts=drain.parts)


@contextmanager
def admin_server(snapshots: Snapshots, options: ServeOptions, *, jobs: Ask) -> Iterator[None]:
    """Answer on the admin listener inside the block, if the options want one.

    Raises:
        PortInUse: Its address cannot be listened on.
    """
    if options.admin is None:
        yield
        return
    host, port = parse_admin(options.admin)
    may_change = options.admin_jobs == "change"
    with AdminServer(
        snapshots, host=host, port=port, jobs=jobs, may_change_jobs=may_change
    ) as server:
        _log.info("admin listener on %s", server.url)
        yield


def lifecycle_of(app: Any, options: ServeOptions) -> Lifecycle:
    """Return the app's lifecycle with the options' numbers, installing one where there is none.

    Raises:
        InvalidSetting: The app is no FastAPI app, or a number is out of range.
    """
    lifecycle = installed_lifecycle(app)
    if lifecycle is None:
        if not isinstance(app, FastAPI):
            raise InvalidSetting(
                f"serve wants a FastAPI app; got {type(app).__name__} (mount it in a FastAPI app)"
            )
        return install(app, grace=options.grace, prestop=options.prestop)
    if options.grace is not None:
        lifecycle.grace = options.grace
    if options.prestop is not None:
        lifecycle.prestop = options.prestop
    if lifecycle.prestop >= lifecycle.grace:
        raise InvalidSetting(
            f"--prestop ({lifecycle.prestop:g} s) must be less than --grace "
            f"({lifecycle.grace:g} s), which it is a part of"
        )
    return lifecycle


class _Server(uvicorn.Server):
    """uvicorn, but a signal is not raised again after a clean shutdown: the exit code is ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        terminal = Terminal()

        def on_hangup(number: int, frame: FrameType | None) -> None:
            if terminal.is_gone():
                signal.raise_signal(signal.SIGTERM)
            else:
                loop.call_soon_threadsafe(_log.warning, "SIGHUP: only --supervised can restart")

        handlers: dict[signal.Signals, Callable[[int, FrameType | None], Any]] = {
            signal.SIGINT: self.handle_exit,
            signal.SIGTERM: self.handle_exit,
            signal.SIGHUP: on_hangup,
        }
        former = {number: signal.signal(number, handlers[number]) for number in handlers}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


class _Announcer:
    """Prints the address once the service is ready: the line that scripts wait for."""

    def __init__(
        self, listeners: Sequence[socket.socket], options: ServeOptions, lifecycle: Lifecycle
    ) -> None:
        self._listeners = listeners
        self._options = options
        self._lifecycle = lifecycle

    def __call__(self, event: object) -> None:
        if isinstance(event, PhaseEntered) and event.phase == "ready":
            _log.info(
                "serving on %s (pid %d, grace %g s, prestop %g s)",
                addresses_of(self._listeners, self._options), os.getpid(),
                self._lifecycle.grace, self._lifecycle.prestop,
            )  # fmt: skip


class _Overtime:
    """Ends the process when the drain is stuck: a handler that swallows its cancellation, or a
    blocked loop, would else keep it until the platform's SIGKILL, without a word."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    def __call__(self, event: object) -> None:
        if isinstance(event, PhaseEntered) and event.phase == "draining":
            leave_after(self._lifecycle.grace + OVERTIME)


def leave_after(seconds: float) -> None:
    """End the process with exit code 3 after `seconds`, from a thread, if it is still there."""
    timer = threading.Timer(seconds, _leave)
    timer.daemon = True
    timer.start()


def _leave() -> None:
    _log.error("the shutdown deadline has passed and something does not end: leaving now")
    logging.shutdown()
    os._exit(EXIT_LOST_OR_NOT_STARTED)
