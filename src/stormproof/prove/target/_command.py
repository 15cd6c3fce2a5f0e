"""What starts each server, with plain settings, as a person would type it."""

import shlex
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec

from stormproof.errors import CouldNotProve, InvalidSetting
from stormproof.prove._options import ProveOptions

_PRESTOP_MARGIN = 1.0
"""Seconds by which the lame duck of `serve` outlasts the platform's lag."""

_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "uvicorn": ("uvicorn",),
    "serve": ("uvicorn",),
    "hypercorn": ("hypercorn",),
    "granian": ("granian",),
    "gunicorn": ("gunicorn", "uvicorn_worker"),
}


def server_command(options: ProveOptions, port: int) -> list[str]:
    """Return what starts the server on `port` of 127.0.0.1.

    uvicorn is started as `fastapi run` does: one process, proxy headers believed from loopback,
    which are uvicorn's own defaults. `serve` is told the platform's figures: its grace, and a
    lame duck one second longer than the load balancer's lag. The others have their defaults.

    Raises:
        InvalidSetting: There is no app, or the command has no place for the port.
        CouldNotProve: The server is not installed.
    """
    if options.server == "command" or options.command:
        return _own_command(options.command, port)
    if ":" not in options.app:
        raise InvalidSetting(f"app is {options.app!r}; give module:app, for instance main:app")
    missing = [name for name in _PACKAGES[options.server] if find_spec(name) is None]
    if missing:
        names = " ".join(name.replace("_", "-") for name in missing)
        raise CouldNotProve(
            f"server {options.server!r} is not installed: pip install {names}, "
            "or choose another one by --server"
        )
    return [sys.executable, "-m", *_MODULES[options.server](options, port)]


def _own_command(command: str, port: int) -> list[str]:
    if "{port}" not in command:
        raise InvalidSetting("command has no {port} in it, so the server cannot be told its port")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InvalidSetting(f"command {command!r} cannot be read: {error}") from error
    return [word.replace("{port}", str(port)) for word in words]


def _uvicorn(options: ProveOptions, port: int) -> list[str]:
    return ["uvicorn", options.app, "--host", "127.0.0.1", "--port", str(port)]


def _serve(options: ProveOptions, port: int) -> list[str]:
    words = ["stormproof", "serve", options.app, "--host", "127.0.0.1", "--port", str(port)]
    prestop = options.profile.lag + _PRESTOP_MARGIN
    return [*words, "--grace", f"{options.profile.grace:g}", "--prestop", f"{prestop:g}"]


def _hypercorn(options: ProveOptions, port: int) -> list[str]:
    return ["hypercorn", options.app, "--bind", f"127.0.0.1:{port}"]


def _granian(options: ProveOptions, port: int) -> list[str]:
    words = ["granian", options.app, "--interface", "asgi"]
    return [*words, "--host", "127.0.0.1", "--port", str(port)]


def _gunicorn(options: ProveOptions, port: int) -> list[str]:
    words = ["gunicorn", options.app, "--worker-class", "uvicorn_worker.UvicornWorker"]
    if find_spec("gunicorn.ctl") is not None:
        # Else it would take the one path in the home folder that a gunicorn at work listens on.
        words.append("--no-control-socket")
    return [*words, "--bind", f"127.0.0.1:{port}"]


_MODULES: Mapping[str, Callable[[ProveOptions, int], list[str]]] = {
    "uvicorn": _uvicorn,
    "serve": _serve,
    "hypercorn": _hypercorn,
    "granian": _granian,
    "gunicorn": _gunicorn,
}
