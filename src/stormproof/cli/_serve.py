"""The commands that serve: `serve`, and `reload` for one that is serving."""

import argparse
from pathlib import Path

from ._server import add_server_options, server_options


def add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `serve`."""
    serve = commands.add_parser(
        "serve",
        help="serve an app; at SIGTERM drain, then exit",
        description="Serve an app with uvicorn inside; at SIGTERM drain, then exit: 0 when "
        "nothing was lost, 3 when the app did not start or acknowledged work was cut.",
    )
    serve.add_argument(
        "app",
        nargs="?",
        metavar="module:app",
        help="the application; default: entrypoint of [tool.fastapi] in pyproject.toml",
    )
    add_listener(serve, "127.0.0.1")
    serve.add_argument("--access-log", action="store_true", help="log a line for each request")
    add_server_options(serve)
    _add_supervision(serve)
    serve.set_defaults(run=_run_serve)


def add_reload(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `reload`."""
    reload = commands.add_parser(
        "reload",
        help="let a supervised service hand over to new workers",
        description="Send SIGHUP to the parent of `serve --supervised` or `--workers N`: new "
        "workers start, and the old ones drain once the new ones serve. Waits for nothing.",
    )
    which = reload.add_mutually_exclusive_group(required=True)
    which.add_argument("--pid", type=int, metavar="PID", help="process id of the parent")
    which.add_argument("--pid-file", type=Path, metavar="PATH", help="where it is written")
    reload.set_defaults(run=_run_reload)


def add_listener(command: argparse.ArgumentParser, host: str) -> None:
    """Add where to listen, and how long to drain."""
    command.add_argument("--host", default=host, help=f"address to listen on; default {host}")
    command.add_argument("--port", type=_port, default=8000, help="default 8000; 0: a free one")
    for name, what in (
        ("grace", "seconds from SIGTERM to the end of everything; default 30"),
        ("prestop", "seconds of lame duck at its beginning; default 5"),
    ):
        command.add_argument(f"--{name}", type=float, metavar="SECONDS", help=what)


def _add_supervision(serve: argparse.ArgumentParser) -> None:
    supervised = serve.add_argument_group(
        "supervised",
        "With any of these a parent process holds the socket and keeps the workers.",
    )
    supervised.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that serve; default 1"
    )
    supervised.add_argument(
        "--supervised", action="store_true", help="keep a parent also for one worker"
    )
    supervised.add_argument(
        "--stall-kill",
        type=float,
        metavar="SECONDS",
        help="replace a worker whose event loop is blocked for longer; default: never",
    )
    supervised.add_argument(
        "--start-limit",
        type=float,
        metavar="SECONDS",
        help="what a worker may take until it serves; default 60",
    )
    supervised.add_argument(
        "--pid-file", type=Path, metavar="PATH", help="write the parent's process id here"
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a number from 0 to 65535")
    return int(text)


def _run_serve(arguments: argparse.Namespace) -> int:
    from stormproof.serve import ServeOptions, Supervision, explained, load_app, serve, supervise

    options = ServeOptions(
        host=arguments.host,
        port=arguments.port,
        grace=arguments.grace,
        prestop=0.0 if arguments.reload and arguments.prestop is None else arguments.prestop,
        is_access_logged=arguments.access_log,
        **server_options(arguments),
    )
    given = {
        name: getattr(arguments, name)
        for name in ("stall_kill", "start_limit", "pid_file")
        if getattr(arguments, name) is not None
    }
    watched = Path.cwd() if arguments.reload else None
    supervision = Supervision(workers=arguments.workers, watched=watched, **given)
    if arguments.explain:
        print(explained(arguments.app, options, supervision, form=arguments.format), end="")
        return 0
    if given or arguments.supervised or arguments.reload or supervision.workers > 1:
        return supervise(arguments.app, options, supervision)
    return serve(load_app(arguments.app), options)


def _run_reload(arguments: argparse.Namespace) -> int:
    from stormproof.serve import reload

    pid = reload(pid=arguments.pid, pid_file=arguments.pid_file)
    print(f"asked process {pid} to hand over to new workers; its log says how it went")
    return 0
