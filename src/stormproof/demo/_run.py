"""Run the reference service with everything it needs."""

import os

from stormproof.errors import MissingExtra
from stormproof.serve import ServeOptions, load_app, serve

_DEMO_PRESTOP = 1.0
"""Seconds: no load balancer stands before a demo, so its lame duck can be short."""


def run_demo(
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    grace: float | None = None,
    prestop: float | None = None,
) -> int:
    """Serve `stormproof.demo.service:app` until SIGTERM or Ctrl-C; return the exit code.

    A free port is taken when `port` is in use. Blocks the calling (main) thread.

    Raises:
        MissingExtra: The packages of `stormproof[demo]` are not installed.
        InvalidSetting, PortInUse: As `serve`.
    """
    if prestop is None and "STORMPROOF_PRESTOP" not in os.environ:
        prestop = _DEMO_PRESTOP
    try:
        app = load_app("stormproof.demo.service:app")
    except ImportError as exc:
        missing = getattr(exc.__cause__, "name", None)
        if missing is None or missing.startswith("stormproof"):
            raise
        raise MissingExtra(
            f"the demo needs {missing!r}; install it with pip install 'stormproof[demo]'"
        ) from exc
    options = ServeOptions(
        host=host, port=port, is_port_flexible=True, grace=grace, prestop=prestop
    )
    return serve(app, options)
