"""How to serve: what the command line or the caller decides, for one worker or for many."""

import math
from dataclasses import dataclass
from pathlib import Path

from stormproof.errors import InvalidSetting

LEAST_STALL_KILL = 0.5
"""Seconds: a worker tells every 0.25 s that its loop runs, so nothing shorter can be judged."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """How a parent keeps its workers.

    Attributes:
        workers: How many processes serve.
        stall_kill: Seconds without a turn of its event loop after which a worker is killed and
            replaced; None: never.
        start_limit: Seconds a worker may take until it serves.
        pid_file: Where the parent's process id is written while it runs; None: nowhere.

    Raises:
        InvalidSetting: A number is out of range; names the option.
    """

    workers: int = 1
    stall_kill: float | None = None
    start_limit: float = 60.0
    pid_file: Path | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InvalidSetting(f"--workers must be 1 or more; got {self.workers}")
        if self.stall_kill is not None and not LEAST_STALL_KILL <= self.stall_kill < math.inf:
            raise InvalidSetting(
                f"--stall-kill must be a number of seconds, {LEAST_STALL_KILL:g} or more; "
                f"got {self.stall_kill:g}"
            )
        if not 0 < self.start_limit < math.inf:
            raise InvalidSetting(
                f"--start-limit must be a number of seconds above 0; got {self.start_limit:g}"
            )
