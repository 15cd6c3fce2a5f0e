"""How to serve: what the command line or the caller decides, for one worker or for many."""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from stormproof.errors import InvalidSetting, MissingExtra

from ._admin import parse_admin
from ._limits import ReadLimits
from ._logs import LogFormat
from ._tls import checked_tls

LEAST_STALL_KILL = 0.5
"""Seconds: a worker tells every 0.25 s that its loop runs, so nothing shorter can be judged."""

OVERTIME = 1.0
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
        header_timeout: Seconds a client may take to send a request's head.
        body_timeout: Seconds a client may pause within a request's body.
        ssl_certfile: Certificate to serve TLS with (PEM); None: no TLS.
        ssl_keyfile: Its key; None: it is in `ssl_certfile`, too.
        is_http2: Whether HTTP/2 is spoken, by a parser that is an experiment.
        admin: `PORT` (on loopback) or `HOST:PORT` of the admin listener; None: there is none.
        admin_jobs: Whether who reaches it may also retry and cancel durable jobs.
        log_format: How a line of the log looks.

    Raises:
        InvalidSetting: One of them cannot be used; names the option.
        MissingExtra: HTTP/2 is wanted and its parser is not installed.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    is_port_flexible: bool = False
    grace: float | None = None
    prestop: float | None = None
    is_access_logged: bool = False
    header_timeout: float = 10.0
    body_timeout: float = 15.0
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    is_http2: bool = False
    admin: str | None = None
    admin_jobs: Literal["look", "change"] = "look"
    log_format: LogFormat = "text"

    def __post_init__(self) -> None:
        ReadLimits(header_timeout=self.header_timeout, body_timeout=self.body_timeout)
        checked_tls(self.ssl_certfile, self.ssl_keyfile)
        if self.admin is not None:
            parse_admin(self.admin)
        if self.is_http2 and find_spec("zttp") is None:
            raise MissingExtra(
                "--http2 needs 'zttp'; install it with pip install 'stormproof[http2]'"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """How a parent keeps its workers.

    Attributes:
        workers: How many processes serve.
        stall_kill: Seconds without a turn of its event loop after which a worker is killed and
            replaced; None: never.
        start_limit: Seconds a worker may take until it serves.
        pid_file: Where the parent's process id is written while it runs; None: nowhere.
        watched: A folder whose Python files bring a hand-over when they change; None: there is
            none. For development, with one worker.

    Raises:
        InvalidSetting: A number is out of range; names the option.
    """

    workers: int = 1
    stall_kill: float | None = None
    start_limit: float = 60.0
    pid_file: Path | None = None
    watched: Path | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InvalidSetting(f"--workers must be 1 or more; got {self.workers}")
        if self.watched is not None and self.workers > 1:
            raise InvalidSetting("--reload is for development: it goes with one worker only")
        if self.stall_kill is not None and not LEAST_STALL_KILL <= self.stall_kill < math.inf:
            raise InvalidSetting(
                f"--stall-kill must be a number of seconds, {LEAST_STALL_KILL:g} or more; "
                f"got {self.stall_kill:g}"
            )
        if not 0 < self.start_limit < math.inf:
            raise InvalidSetting(
                f"--start-limit must be a number of seconds above 0; got {self.start_limit:g}"
            )
