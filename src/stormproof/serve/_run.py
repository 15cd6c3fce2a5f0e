"""Run one worker: our listener, uvicorn inside, exit code 0, or 3 when something was lost."""

import asyncio
import errno
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI

from stormproof._core.events import PhaseEntered
from stormproof._core.lifecycle import Lifecycle
from stormproof.errors import InvalidSetting, PortInUse
from stormproof.fastapi import install, installed_lifecycle

_log = logging.getLogger("stormproof")

EXIT_CLEAN = 0
EXIT_LOST_OR_NOT_STARTED = 3

_KEEP_ALIVE = 75
"""Seconds an idle connection is kept: above the 60 s of the usual load balancers, so that they
close it first and never send a request into a connection that is just being closed."""

_BACKLOG = 2048
_OVERTIME = 1.0
"""Seconds past the shutdown deadline after which the process is ended whatever blocks it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How to serve.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        is_port_flexible: Whether a free port is taken when `port` is in use.
        grace: Seconds, see `install`; None: from the settings.
        prestop: Seconds, see `install`; None: from the settings.
        is_access_logged: Whether each request gets a log line.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    is_port_flexible: bool = False
    grace: float | None = None
    prestop: float | None = None
    is_access_logged: bool = False


def serve(app: Any, options: ServeOptions) -> int:
    """Serve `app` until SIGTERM or SIGINT, drain, and return the exit code.

    A FastAPI app without `install()` gets it here. Blocks the calling (main) thread.

    Returns:
        0 after a clean drain; 3 when the app did not start or acknowledged work was lost.

    Raises:
        PortInUse: The address is taken or may not be used; nothing was started.
        InvalidSetting: The app cannot be given a lifecycle, or a setting is out of range.
    """
    lifecycle = _lifecycle_of(app, options)
    listener = bind(options)
    config = uvicorn.Config(
        app,
        timeout_keep_alive=_KEEP_ALIVE,
        access_log=options.is_access_logged,
        log_level="warning" if not options.is_access_logged else "info",
        lifespan="on",
    )
    _set_up_log()
    announced = lifecycle.events.subscribe(_Announcer(listener, lifecycle))
    overtime = lifecycle.events.subscribe(_Overtime(lifecycle))
    server = _Server(config)
    try:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(server.serve([listener]))
    except SystemExit:
        return EXIT_LOST_OR_NOT_STARTED  # uvicorn has said why the start failed
    except KeyboardInterrupt:
        return EXIT_CLEAN
    finally:
        listener.close()
        announced()
        overtime()
    return EXIT_LOST_OR_NOT_STARTED if lifecycle.losses else EXIT_CLEAN


def bind(options: ServeOptions) -> socket.socket:
    """Return a listening socket for `options`; the caller closes it.

    Raises:
        PortInUse: The address is taken, unknown here, or needs more rights.
    """
    try:
        return _listen(options.host, options.port)
    except (OSError, OverflowError) as exc:
        is_taken = isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE
        if is_taken and options.is_port_flexible:
            return _listen(options.host, 0)
        raise _why_not(exc, options) from exc


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _why_not(exc: OSError | OverflowError, options: ServeOptions) -> PortInUse:
    place = f"{options.host}:{options.port}"
    code = exc.errno if isinstance(exc, OSError) else None
    if code == errno.EADDRINUSE:
        return PortInUse(f"{place} is in use; stop what listens there or give another --port")
    if code in (errno.EACCES, errno.EPERM):
        return PortInUse(f"{place} may not be used by this user; give a --port above 1023")
    return PortInUse(f"cannot listen on {place}: {exc}; give another --host or --port")


def _lifecycle_of(app: Any, options: ServeOptions) -> Lifecycle:
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
        handled = (signal.SIGINT, signal.SIGTERM)
        former = {signum: signal.signal(signum, self.handle_exit) for signum in handled}
        try:
            yield
        finally:
            for signum, handler in former.items():
                signal.signal(signum, handler)


class _Announcer:
    """Prints the address once the service is ready: the line that scripts wait for."""

    def __init__(self, listener: socket.socket, lifecycle: Lifecycle) -> None:
        self._listener = listener
        self._lifecycle = lifecycle

    def __call__(self, event: object) -> None:
        if isinstance(event, PhaseEntered) and event.phase == "ready":
            host, port = self._listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            _log.info(
                "serving on http://%s:%d (pid %d, grace %g s, prestop %g s)",
                shown, port, os.getpid(), self._lifecycle.grace, self._lifecycle.prestop,
            )  # fmt: skip


class _Overtime:
    """Ends the process when the drain is stuck: a handler that swallows its cancellation, or a
    blocked loop, would else keep it until the platform's SIGKILL, without a word."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    def __call__(self, event: object) -> None:
        if isinstance(event, PhaseEntered) and event.phase == "draining":
            timer = threading.Timer(self._lifecycle.grace + _OVERTIME, self._leave)
            timer.daemon = True
            timer.start()

    def _leave(self) -> None:
        _log.error("the shutdown deadline has passed and something does not end: leaving now")
        logging.shutdown()
        os._exit(EXIT_LOST_OR_NOT_STARTED)


def _set_up_log() -> None:
    """Let the `stormproof` logger print to stderr, unless the app has set it up already."""
    if _log.hasHandlers():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
